"""``perdition --lookup USER[,USER...]``: shows to which server users would be sent, and why.

It performs the steps of a login up to the name of the real server, with the options and the code
of the daemon, and prints each of them. It starts nothing and asks for no password; a popmap that
verifies passwords gets an empty one.
"""

from perdition.client_limits import ClientLimits
from perdition.endpoint import ConnectionEnds, Security
from perdition.failure import MapUnavailable, NoServer, Rejected
from perdition.files import STDERR
from perdition.log import Log, Output, printable
from perdition.login import LoginAttempt
from perdition.net.loop import Loop
from perdition.net.tls_contexts import TLSContexts
from perdition.options.table import Options
from perdition.options.values import State
from perdition.popmap import Destination, Query
from perdition.popmap.kinds import open_map
from perdition.popmap.service import PopMapService
from perdition.protocol.dialogue import Credentials
from perdition.scoreboard import Scoreboard, WorkerCounters
from perdition.site import Site
from perdition.username import in_state

FOUND = 0
NOT_FOUND = 1
UNAVAILABLE = 2
"""Exit statuses; of several users, the highest counts."""

LOCALHOST = "127.0.0.1"


class PrintingPopMapService(PopMapService):
    """Prints each key that is queried, and the answer."""

    async def lookup(self, query: Query) -> Destination | None:
        key = printable(query.key)
        try:
            destination = await super().lookup(query)
        except (MapUnavailable, Rejected) as failure:
            print(f'  key "{key}": {printable(failure.detail)}')
            raise
        print(f'  key "{key}": {described(destination)}')
        return destination


def run(name: str, users: str, options: Options) -> int:
    """Look up users, separated by commas; return the exit status. Raises StartupError."""
    popmap = open_map(options)
    popmap.check()
    loop = Loop()
    log = Log(name, Output(STDERR), options.debug)
    site = Site.open(
        loop,
        options,
        log,
        popmap=PrintingPopMapService(loop, popmap, options, log),
        tls=TLSContexts(),
        client_limits=ClientLimits(workers=1),
        counters=WorkerCounters(Scoreboard(1).rows[0]),
    )
    status = loop.run_until_done(look_up_all(site, users.split(",")))
    popmap.close()
    return status


async def look_up_all(site: Site, users: list[str]) -> int:
    """Print where users would be sent; return the exit status."""
    return max([await look_up(site, user) for user in users])


async def look_up(site: Site, user: str) -> int:
    """Print where a user would be sent; return the exit status for that user."""
    options = site.options
    print(f"{printable(user)}:")
    own_host = options.bind_address[0].host if options.bind_address else LOCALHOST
    ends = ConnectionEnds(LOCALHOST, 0, own_host, int(options.service.port))
    servers = list(options.outgoing_server)
    attempt = LoginAttempt(site, ends, Credentials(user, b""), Security.PLAINTEXT, servers)
    domain = await attempt.domain()
    try:
        route = await attempt.find_route(domain)
    except MapUnavailable:
        print("  cannot log in for now: the popmap is unavailable")
        return UNAVAILABLE
    except NoServer:
        print("  cannot log in: no server for this user")
        return NOT_FOUND
    except Rejected:
        print("  cannot log in without a password: the popmap verifies it")
        return NOT_FOUND
    shown = " or ".join(str(attempt.with_port(server)) for server in route.servers)
    remote = in_state(route.name, State.REMOTE_LOGIN, domain, options)
    print(f'  logs in at {printable(shown)} as "{printable(remote)}"')
    return FOUND


def described(destination: Destination | None) -> str:
    """Return a popmap's answer in words."""
    if not destination:
        return "not in the popmap"
    server = printable(str(destination.server)) or "no server"
    return f'{server}, user "{printable(destination.user)}"' if destination.user else server
