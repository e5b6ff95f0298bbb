"""``perdition --lookup USER[,USER...]``: what an administrator asks when somebody cannot log in.

It goes the way of a login up to the real server's name, by the daemon's own options and code, and
tells each step. Nothing is started, and nobody is asked for a password: a popmap that checks them
gets an empty one.
"""

import itertools

from perdition.clients import Clients
from perdition.failure import MapUnavailable, NoServer, Rejected
from perdition.log import Log, Output, printable
from perdition.login import Attempt, Site
from perdition.net.address import Resolver
from perdition.net.loop import Loop
from perdition.option_kinds import State
from perdition.options import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap.directory import Directory
from perdition.popmap.kinds import open_map
from perdition.process.scoreboard import Scoreboard
from perdition.protocol.dialogue import Credentials
from perdition.tally import Tally
from perdition.upstream import Upstream
from perdition.username import Ends, in_state

FOUND = 0
NOT_FOUND = 1
UNAVAILABLE = 2
"""The exit statuses; of several users, the one that fares worst decides."""

STDERR = 2
HERE = "127.0.0.1"


class TellingDirectory(Directory):
    """A directory that tells of each key that it is asked for, and what the map has."""

    async def lookup(self, query: Query) -> Destination | None:
        key = printable(query.key)
        try:
            found = await super().lookup(query)
        except (MapUnavailable, Rejected) as failure:
            print(f'  key "{key}": {printable(failure.detail)}')
            raise
        print(f'  key "{key}": {described(found)}')
        return found


def run(name: str, users: str, options: Options) -> int:
    """Look up users, divided by commas; return the exit status. Raises StartupError."""
    popmap = open_map(options)
    popmap.check()
    loop = Loop()
    site = site_of_its_own(loop, options, popmap, Log(name, Output(STDERR), options.debug))
    statuses: list[int] = []

    async def look_up_all() -> None:
        statuses.extend([await look_up(site, user) for user in users.split(",")])
        loop.stop()

    def begin() -> None:
        loop.spawn(look_up_all())

    loop.call_soon_from_thread(begin)
    loop.run()
    popmap.close()
    return max(statuses)


def site_of_its_own(loop: Loop, options: Options, popmap: PopMap, log: Log) -> Site:
    """Return what a login needs up to the point where it would connect."""
    resolver = Resolver(loop, numeric=options.no_lookup)
    tally = Tally(Scoreboard(1).rows[0])
    return Site(
        options=options,
        log=log,
        tally=tally,
        loop=loop,
        popmap=TellingDirectory(loop, popmap, options, log),
        clients=Clients(workers=1),
        local=None,
        tls=None,
        resolver=resolver,
        upstream=Upstream(loop, resolver, options, log, None, tally),
        turns=itertools.count(),
        splices=set(),
        inetd_pid=0,
    )


async def look_up(site: Site, user: str) -> int:
    """Tell where a user would be sent; return the exit status for that."""
    options = site.options
    print(f"{printable(user)}:")
    here = options.bind_address[0].host if options.bind_address else HERE
    ends = Ends(HERE, 0, here, int(options.service.port))
    attempt = Attempt(
        site, ends, Credentials(user, b""), "plaintext", list(options.outgoing_server)
    )
    domain = await attempt.domain()
    try:
        await attempt.find_servers(domain)
    except MapUnavailable:
        print("  cannot log in for the time being: the popmap cannot be asked")
        return UNAVAILABLE
    except NoServer:
        print("  cannot log in: there is no server for that user")
        return NOT_FOUND
    except Rejected:
        print("  cannot log in without a password: the popmap checks it")
        return NOT_FOUND
    servers = " or ".join(str(attempt.with_port(server)) for server in attempt.servers)
    remote = in_state(attempt.name, State.REMOTE_LOGIN, domain, options)
    print(f'  logs in at {printable(servers)} as "{printable(remote)}"')
    return FOUND


def described(found: Destination | None) -> str:
    """Return a popmap's answer."""
    if not found:
        return "not in the popmap"
    server = printable(str(found.server)) or "no server"
    return f'{server}, user "{printable(found.user)}"' if found.user else server
