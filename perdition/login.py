"""One attempt to log in: from what a client typed to its real server's answer."""

from collections.abc import Iterator
from os import fsdecode
from typing import TYPE_CHECKING, NamedTuple

from perdition.auth import LocalAuthentication
from perdition.clients import Clients
from perdition.endpoint import Endpoint
from perdition.failure import (
    Failure,
    LoginDisabled,
    MapUnavailable,
    NoServer,
    Rejected,
    TLSNotPresent,
)
from perdition.log import Log, Login
from perdition.net.address import Resolver
from perdition.net.loop import Loop
from perdition.net.splice import Splice
from perdition.net.stream import Stream
from perdition.option_kinds import State, TLSUse
from perdition.options import Options
from perdition.popmap import Destination, Query
from perdition.popmap.directory import Directory
from perdition.process.scoreboard import Answer, Stage
from perdition.protocol.dialogue import Accepted, Credentials
from perdition.tally import Tally
from perdition.upstream import Upstream
from perdition.username import Ends, divide_server, in_state, query_keys, strip_levels

if TYPE_CHECKING:
    from perdition.net.tls_listening import ListeningTLS


class Site(NamedTuple):
    """What all sessions of a process share."""

    options: Options
    log: Log
    tally: Tally
    loop: Loop
    popmap: Directory
    clients: Clients
    local: LocalAuthentication | None
    tls: "ListeningTLS | None"
    resolver: Resolver
    upstream: Upstream
    turns: Iterator[int]
    """Whose turn it is to be the first of several ``outgoing_server``."""
    splices: set[Splice]
    """The sessions whose clients are logged in."""
    inetd_pid: int = 0
    """The super-server that the only client comes from; 0: there is none."""

    def end_sessions(self) -> None:
        """End all sessions; each writes its closing line."""
        for task in list(self.loop.tasks):
            task.cancel()
        for splice in list(self.splices):
            splice.close()


class Attempt:
    """An attempt, and what its Auth line tells of it.

    ``name`` is the name that everything turns on: the authorisation id of who wants to act as
    somebody else, and of all others their user name. It is as typed, less the server that the
    client may have named, or with ``username_from_database`` the popmap's. ``servers`` are those
    to be tried if neither client nor popmap names one. ``number`` counts a connection's attempts.
    """

    def __init__(
        self,
        site: Site,
        ends: Ends,
        credentials: Credentials,
        secure: str,
        servers: list[Endpoint],
        number: int = 1,
    ) -> None:
        self.site = site
        self.options = site.options
        self.ends = ends
        self.credentials = credentials
        self.secure = secure
        self.servers = servers
        self.name, self.named_server = divide_server(
            credentials.authorisation or credentials.user, self.options
        )
        self.number = number
        self.popmap_password: bytes | None = None
        self.server = ""

    async def authenticate(self, domain: str) -> None:
        """Have PAM say whether the password is right, if the site wants that; raises a Failure.

        The password is that of who logs in, whomever that one wants to act as.
        """
        if self.site.local:
            typed, _ = divide_server(self.credentials.user, self.options)
            user = in_state(typed, State.LOCAL_AUTHENTICATION, domain, self.options)
            with self.site.tally.stage(Stage.LOCAL_AUTHENTICATION):
                await self.site.local.check(user, self.credentials.password, self.ends.source)

    async def log_in(self, own_greeting: bytes) -> tuple[Stream, Accepted]:
        """Return a stream on which the user is logged in, and the real server's answer.

        Raises a Failure.
        """
        if self.options.login_disabled:
            raise LoginDisabled
        if self.options.tls.listen is TLSUse.TLS_FORCE and self.secure == "plaintext":
            raise TLSNotPresent
        domain = await self.domain()
        await self.find_servers(domain)
        self.server = self.written(self.servers[0])
        await self.authenticate(domain)
        remote = in_state(self.name, State.REMOTE_LOGIN, domain, self.options)
        return await self.first_that_answers(self.named(remote), own_greeting)

    async def domain(self) -> str:
        """Return what ``add_domain`` appends; "" if there is nothing."""
        if not self.options.add_domain.states:
            return ""
        if self.options.explicit_domain is not None:
            return self.options.explicit_domain
        hostname = await self.site.resolver.name(self.ends.destination)
        return strip_levels(hostname, self.options.add_domain.depth)

    async def find_servers(self, domain: str) -> None:
        """Settle which servers are tried, and the user's name there.

        Raises NoServer, MapUnavailable.
        """
        destination = await self.destination(domain)
        if destination and destination.server.host:
            self.servers = [destination.server]
        if not self.servers:
            raise NoServer
        if destination and destination.user and self.options.username_from_database:
            self.name = destination.user
        if destination:
            self.popmap_password = destination.password

    async def destination(self, domain: str) -> Destination | None:
        """Return the server that the client names, or what the popmap has for it.

        Raises MapUnavailable, Rejected.
        """
        if self.named_server:
            return Destination(self.named_server)
        tally = self.site.tally
        try:
            with tally.stage(Stage.MAP):
                found = await self.look_up(domain)
        except MapUnavailable:
            tally.popmap_answered(Answer.UNAVAILABLE)
            raise
        except Rejected:
            tally.popmap_answered(Answer.MISSING)
            raise
        tally.popmap_answered(Answer.FOUND if found else Answer.MISSING)
        return found

    async def look_up(self, domain: str) -> Destination | None:
        """Return what the popmap has for the first of the user's keys that it knows.

        Raises MapUnavailable, Rejected.
        """
        name = in_state(self.name, State.SERVERNAME_LOOKUP, domain, self.options)
        for key in query_keys(name, self.ends, self.options):
            found = await self.site.popmap.lookup(self.query(key))
            if self.site.log.debugging:
                self.site.log.debug(f"popmap: {key!r} has {found}")
            if found:
                return found
        return None

    def query(self, key: str) -> Query:
        """Return what the popmap is asked; few need to know the password."""
        secure = self.secure != "plaintext"
        if self.site.popmap.wants_password:
            return Query(key, self.ends, secure, self.number, self.credentials.password)
        return Query(key, self.ends, secure, self.number)

    def named(self, name: str) -> Credentials:
        """Return the credentials with another name in the place of that which counts.

        A password that the popmap gives is for that name, and lets nobody act as somebody else.
        """
        if self.popmap_password is not None:
            return Credentials(name, self.popmap_password, tag=self.credentials.tag)
        if self.credentials.authorisation:
            return self.credentials._replace(authorisation=name)
        return self.credentials._replace(user=name)

    async def first_that_answers(
        self, credentials: Credentials, own_greeting: bytes
    ) -> tuple[Stream, Accepted]:
        """Log in at the first server that can be reached; raises a Failure."""
        *others, last = map(self.with_port, self.servers)
        for server in others:
            self.server = self.written(server)
            try:
                return await self.site.upstream.log_in(server, credentials, own_greeting)
            except Failure as failure:
                if not failure.another_server:
                    raise
                self.site.log.error(f"{self.ends}: {failure.detail}; trying another server")
        self.server = self.written(last)
        return await self.site.upstream.log_in(last, credentials, own_greeting)

    def with_port(self, server: Endpoint) -> Endpoint:
        """Return a server with the port that it is asked at."""
        return server if server.port else server._replace(port=self.options.default_port)

    def written(self, server: Endpoint) -> str:
        """Return a server as the Auth line has it."""
        return f"{server.host}:{self.with_port(server).port}"

    def record(self, server_secure: str, failure: Failure | None = None) -> Login:
        """Return what the Auth line tells."""
        named = self.named(self.name)
        password = None
        if self.options.logs_password(ok=failure is None):
            password = fsdecode(self.credentials.password)
        return Login(
            authorisation=named.authorisation,
            user=named.user,
            server=self.server,
            protocol=self.options.service.name,
            client_secure=self.secure,
            server_secure=server_secure,
            status=f'"failed: {failure.status}"' if failure else "ok",
            password=password,
        )


def in_turn(servers: tuple[Endpoint, ...], turns: Iterator[int]) -> list[Endpoint]:
    """Return the servers with the one whose turn it is in front."""
    if not servers:
        return []
    turn = next(turns) % len(servers)
    return [*servers[turn:], *servers[:turn]]
