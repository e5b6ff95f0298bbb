"""Connects to real servers and logs in there."""

import errno
import socket
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from perdition.dialogue_runner import DialogueRunner
from perdition.endpoint import ConnectionEnds, Endpoint, Security
from perdition.failure import ConnectFailed, Failure, NegotiationFailed, ServerGone
from perdition.log import Log
from perdition.net.connection_race import AllAttemptsFailed, first_success, interleaved
from perdition.net.loop import Loop
from perdition.net.resolver import Address, Resolver
from perdition.net.stream import PeerClosed, Stream
from perdition.net.transport import TLSHandshakeFailed
from perdition.options.table import Options
from perdition.options.values import TLSUse
from perdition.protocol.dialogue import Accepted, Credentials, LineTooLong, StartTLSPolicy
from perdition.scoreboard import Stage, WorkerCounters

if TYPE_CHECKING:
    from perdition.net.tls_outgoing import OutgoingTLS

START_TLS = {
    TLSUse.NONE: StartTLSPolicy.NEVER,
    TLSUse.SSL: StartTLSPolicy.NEVER,
    TLSUse.TLS: StartTLSPolicy.IF_OFFERED,
    TLSUse.TLS_FORCE: StartTLSPolicy.REQUIRED,
}


class Upstream:
    """Logs in to real servers, for all sessions of a worker."""

    def __init__(
        self,
        loop: Loop,
        resolver: Resolver,
        options: Options,
        log: Log,
        tls: "OutgoingTLS | None",
        counters: WorkerCounters,
    ) -> None:
        self.loop = loop
        self.resolver = resolver
        self.options = options
        self.log = log
        self.tls = tls
        self.counters = counters
        self.connect_limit = shorter_limit(options, "connect_timeout", "authenticate_timeout")
        option, seconds = shorter_limit(options, "login_timeout", "authenticate_timeout")
        self.timeout = 0 if option == "login_timeout" else seconds
        """Limits each wait for a server, unless ``login_timeout`` ends the login earlier."""

    async def log_in(
        self, server: Endpoint, credentials: Credentials, own_greeting: bytes, client: object
    ) -> tuple[Stream, Accepted]:
        """Return a stream on which the user is logged in, and the server's reply.

        ``client`` is the client's connection in the form of the log.

        Raises a Failure; the connection is then closed.
        """
        with self.counters.timed(Stage.CONNECT):
            stream = await self.connect(server)
        if self.log.debugging:
            self.log.debug(f"{client}: real server: {connection_text(stream)}")
        try:
            with self.counters.timed(Stage.LOGIN):
                accepted = await self.negotiate(stream, server.host, credentials, own_greeting)
        except Failure as failure:
            failure.server_security = stream.security
            if failure.send_logout:
                stream.send_last(self.options.service.protocol.logout_command)
            stream.close()
            raise
        except BaseException:
            stream.close()
            raise
        return stream, accepted

    async def connect(self, server: Endpoint) -> Stream:
        """Connect to the first of the server's addresses that answers; raises ConnectFailed.

        Attempts overlap (RFC 8305). None of them sends credentials; each ends with the greeting.
        """
        try:
            addresses = await self.resolver.addresses(server)
        except OSError as error:
            raise ConnectFailed(f"{server}: {error.strerror or error}") from error
        if len(addresses) == 1:
            try:
                return await self.connect_to(addresses[0])
            except OSError as error:
                raise ConnectFailed(f"{server}: {error.strerror}") from error
        attempts = [partial(self.attempt, address) for address in interleaved(addresses)]
        try:
            return await first_success(self.loop, attempts)
        except AllAttemptsFailed as failed:
            raise ConnectFailed(f"{server}: {'; '.join(map(str, failed.errors))}") from failed

    async def attempt(self, address: Address) -> Stream:
        """Connect to one of several addresses; raises ConnectFailed that names the address."""
        try:
            return await self.connect_to(address)
        except OSError as error:
            raise ConnectFailed(f"{address.sockaddr[0]}: {error.strerror}") from error

    async def connect_to(self, address: Address) -> Stream:
        """Connect to an address; raises OSError (a TimeoutError among them)."""
        sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        stream = Stream(self.loop, sock, self.timeout)
        greets = self.options.tls.outgoing is not TLSUse.SSL
        option, seconds = self.connect_limit
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.options.tcp_keepalive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await stream.connect(address.sockaddr, seconds, greets)
        except OSError as error:
            stream.close()
            if isinstance(error, TimeoutError) and not error.strerror:
                raise TimeoutError(errno.ETIMEDOUT, f"{option} ({seconds} s) exceeded") from error
            raise
        except BaseException:  # the connection is no longer needed
            if greets:  # otherwise the server expects TLS
                stream.send_last(self.options.service.protocol.logout_command)
            stream.close()
            raise
        return stream

    async def negotiate(
        self, stream: Stream, host: str, credentials: Credentials, own_greeting: bytes
    ) -> Accepted:
        """Run the protocol's login dialogue with the real server; raises a Failure."""
        options, tls = self.options, self.tls
        wrap = (lambda sock: tls.wrap(sock, host)) if tls else None
        runner = DialogueRunner(stream, "REAL", self.log, options.logs_connections, wrap)
        protocol, start_tls = options.service.protocol, START_TLS[options.tls.outgoing]
        try:
            if wrap and options.tls.outgoing is TLSUse.SSL:
                await stream.start_tls(wrap, Security.SSL)
            return await runner.run(protocol.server_dialogue(credentials, own_greeting, start_tls))
        except TLSHandshakeFailed as error:
            raise ServerGone(f"TLS handshake with the real server failed: {error}") from error
        except PeerClosed as error:
            raise ServerGone("the real server closed the connection") from error
        except TimeoutError as error:
            seconds = options.authenticate_timeout
            raise ServerGone(
                "the real server did not answer in time: "
                f"authenticate_timeout ({seconds} s) exceeded"
            ) from error
        except LineTooLong as error:
            raise NegotiationFailed("the real server sent a line that is too long") from error


def shorter_limit(options: Options, *names: str) -> tuple[str, int]:
    """Return the option with the lowest time limit in seconds, and its value; 0 is no limit."""
    limits = [(name, getattr(options, name)) for name in names]
    return min(limits, key=lambda limit: limit[1] or inf)


def connection_text(stream: Stream) -> str:
    """Return both ends of a connection that has no TLS yet, for the log."""
    assert isinstance(stream.sock, socket.socket)
    try:
        return str(ConnectionEnds.between(stream.sock.getsockname(), stream.sock.getpeername()))
    except OSError as error:  # the real server has reset the connection
        return f"connection lost: {error.strerror}"
