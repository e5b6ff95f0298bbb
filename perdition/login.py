"""A login attempt: from the client's credentials to the real server's reply."""

from collections.abc import Iterator
from functools import partial
from os import fsdecode
from typing import NamedTuple

from perdition.endpoint import ConnectionEnds, Endpoint, Security
from perdition.failure import (
    Failure,
    LoginDisabled,
    LoginTimedOut,
    MapUnavailable,
    NoServer,
    Rejected,
    TLSNotPresent,
)
from perdition.log import printable
from perdition.net.loop import Task
from perdition.net.stream import Stream
from perdition.options.values import State, TLSUse
from perdition.popmap import Destination, Query
from perdition.protocol.dialogue import Accepted, Credentials
from perdition.scoreboard import PopMapAnswer, Stage
from perdition.session_log import LoginRecord
from perdition.site import Site
from perdition.username import in_state, query_keys, split_server, strip_levels


class Route(NamedTuple):
    """Where a user logs in: the servers to try, in order, and the user name there.

    A ``password`` from the popmap replaces the client's.
    """

    servers: list[Endpoint]
    name: str
    password: bytes | None = None

    def __repr__(self) -> str:
        return f"Route(servers={self.servers!r}, name={self.name!r})"  # without the password


class LoginAttempt:
    """An attempt to log in, and the content of its Auth line.

    The name that is looked up and logged in is the authorisation id, if the client has sent one,
    otherwise the user name. The ``servers`` are used if neither client nor popmap names a server.
    ``number`` counts the attempts of a connection.
    """

    def __init__(
        self,
        site: Site,
        ends: ConnectionEnds,
        credentials: Credentials,
        client_security: Security,
        servers: list[Endpoint],
        own_greeting: bytes = b"",
        number: int = 1,
    ) -> None:
        self.site = site
        self.options = site.options
        self.ends = ends
        self.credentials = credentials
        self.client_security = client_security
        name, self.named_server = split_server(
            credentials.authorisation or credentials.user, self.options
        )
        self.route = Route(servers, name)
        self.own_greeting = own_greeting
        self.number = number
        self.server = ""
        """The server tried last, in the form of the Auth line."""
        self.waits_for = "popmap"

    async def log_in(self) -> tuple[Stream, Accepted]:
        """Return a stream on which the user is logged in, and the real server's reply.

        Raises a Failure, after ``login_timeout`` at the latest.
        """
        loop = self.site.loop
        if not (seconds := self.options.login_timeout):
            return await self.run_steps()
        assert loop.current
        timer = loop.call_later(seconds, partial(self.time_out, loop.current))
        try:
            return await self.run_steps()
        finally:
            loop.timers.cancel(timer)

    def time_out(self, task: Task) -> None:
        """End the attempt, which runs in that task, wherever it is waiting."""
        limit = f"login_timeout ({self.options.login_timeout} s)"
        task.answer(error=LoginTimedOut(f"{limit} exceeded while waiting for {self.waits_for}"))

    async def run_steps(self) -> tuple[Stream, Accepted]:
        """Return what ``log_in`` returns; raises a Failure."""
        if self.options.login_disabled:
            raise LoginDisabled
        if (
            self.options.tls.listen is TLSUse.TLS_FORCE
            and self.client_security is Security.PLAINTEXT
        ):
            raise TLSNotPresent
        domain = await self.domain()
        self.route = await self.find_route(domain)
        self.server = self.server_for_log(self.route.servers[0])
        await self.authenticate(domain)
        remote = in_state(self.route.name, State.REMOTE_LOGIN, domain, self.options)
        return await self.try_servers(self.credentials_for(remote))

    async def domain(self) -> str:
        """Return the domain that ``add_domain`` appends, or "" if there is none."""
        if not self.options.add_domain.states:
            return ""
        if self.options.explicit_domain is not None:
            return self.options.explicit_domain
        hostname = await self.site.resolver.name(self.ends.destination)
        return strip_levels(hostname, self.options.add_domain.depth)

    async def find_route(self, domain: str) -> Route:
        """Return where the user logs in; raises NoServer, MapUnavailable, Rejected."""
        servers, name, password = self.route
        destination = await self.find_destination(domain)
        if destination:
            password = destination.password
            if destination.server.host:
                servers = [destination.server]
            if destination.user and self.options.username_from_database:
                name = destination.user
        if not servers:
            raise NoServer
        return Route(servers, name, password)

    async def find_destination(self, domain: str) -> Destination | None:
        """Return the server that the client specifies, otherwise the popmap's answer.

        Raises MapUnavailable, Rejected.
        """
        if self.named_server:
            return Destination(self.named_server)
        counters = self.site.counters
        try:
            with counters.timed(Stage.MAP):
                destination = await self.query_popmap(domain)
        except MapUnavailable:
            counters.popmap_answered(PopMapAnswer.UNAVAILABLE)
            raise
        except Rejected:
            counters.popmap_answered(PopMapAnswer.MISSING)
            raise
        counters.popmap_answered(PopMapAnswer.FOUND if destination else PopMapAnswer.MISSING)
        return destination

    async def query_popmap(self, domain: str) -> Destination | None:
        """Return the popmap's answer for the first of the user's keys that it contains.

        Raises MapUnavailable, Rejected.
        """
        name = in_state(self.route.name, State.SERVERNAME_LOOKUP, domain, self.options)
        for key in query_keys(name, self.ends, self.options):
            destination = await self.site.popmap.lookup(self.query(key))
            if self.site.log.debugging:
                self.site.log.debug(f"popmap: {key!r}: {destination}")
            if destination:
                return destination
        return None

    def query(self, key: str) -> Query:
        """Return a popmap query; it contains the password only if the popmap wants it."""
        secure = self.client_security is not Security.PLAINTEXT
        if self.site.popmap.wants_password:
            return Query(key, self.ends, secure, self.number, self.credentials.password)
        return Query(key, self.ends, secure, self.number)

    async def authenticate(self, domain: str) -> None:
        """Verify the password with PAM, if ``authenticate_in`` is set; raises a Failure.

        The password is that of the user, even if the authorisation id names another user.
        """
        if self.site.local_authentication:
            self.waits_for = "PAM"
            typed, _ = split_server(self.credentials.user, self.options)
            user = in_state(typed, State.LOCAL_AUTHENTICATION, domain, self.options)
            password = self.credentials.password
            with self.site.counters.timed(Stage.LOCAL_AUTHENTICATION):
                await self.site.local_authentication.verify(user, password, self.ends.source)

    def credentials_for(self, name: str) -> Credentials:
        """Return the credentials with ``name`` in place of the name that was looked up.

        A popmap's password belongs to that name, so no authorisation id is sent with it.
        """
        if self.route.password is not None:
            return Credentials(name, self.route.password, tag=self.credentials.tag)
        if self.credentials.authorisation:
            return self.credentials._replace(authorisation=name)
        return self.credentials._replace(user=name)

    async def try_servers(self, credentials: Credentials) -> tuple[Stream, Accepted]:
        """Log in at the first server that can be reached; raises a Failure."""
        *others, last = map(self.with_port, self.route.servers)
        upstream = self.site.upstream
        for server in others:
            self.server = self.waits_for = self.server_for_log(server)
            try:
                return await upstream.log_in(server, credentials, self.own_greeting, self.ends)
            except Failure as failure:
                if not failure.try_next_server:
                    raise
                self.site.log.error(f"{self.ends}: {failure.detail}; trying another server")
        self.server = self.waits_for = self.server_for_log(last)
        return await upstream.log_in(last, credentials, self.own_greeting, self.ends)

    def with_port(self, server: Endpoint) -> Endpoint:
        """Return a server with the default port if it has none."""
        return server if server.port else server._replace(port=self.options.default_port)

    def server_for_log(self, server: Endpoint) -> str:
        """Return a server in the form of the Auth line."""
        return f"{server.host}:{self.with_port(server).port}"

    def record(self, server_security: Security, failure: Failure | None = None) -> LoginRecord:
        """Return the content of the Auth line."""
        credentials = self.credentials_for(self.route.name)
        password = None
        if self.options.logs_password(ok=failure is None):
            password = fsdecode(self.credentials.password)
        return LoginRecord(
            authorisation=credentials.authorisation,
            user=credentials.user,
            server=self.server,
            protocol=self.options.service.name,
            client_security=self.client_security,
            server_security=server_security,
            status=f'"failed: {printable(failure.status)}"' if failure else '"ok"',
            password=password,
        )


def rotated(servers: tuple[Endpoint, ...], turns: Iterator[int]) -> list[Endpoint]:
    """Return the servers, beginning with the next one (round robin)."""
    if not servers:
        return []
    turn = next(turns) % len(servers)
    return [*servers[turn:], *servers[:turn]]
