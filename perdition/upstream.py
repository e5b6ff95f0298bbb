"""From a destination to a logged-in real server."""

import socket
from typing import TYPE_CHECKING

from perdition.converse import Conversation
from perdition.endpoint import Endpoint
from perdition.failure import ConnectFailed, Failure, NegotiationFailed, ServerGone
from perdition.log import Log
from perdition.net.address import Address, Resolver
from perdition.net.loop import Loop
from perdition.net.stream import PeerClosed, Stream
from perdition.net.wire import TLSFailed
from perdition.option_kinds import TLSUse
from perdition.options import Options
from perdition.process.scoreboard import Stage
from perdition.protocol.dialogue import Accepted, Credentials, LineTooLong, Upgrade
from perdition.tally import Tally

if TYPE_CHECKING:
    from perdition.net.tls_outgoing import OutgoingTLS

UPGRADES = {
    TLSUse.NONE: Upgrade.NEVER,
    TLSUse.SSL: Upgrade.NEVER,
    TLSUse.TLS: Upgrade.IF_OFFERED,
    TLSUse.TLS_FORCE: Upgrade.REQUIRED,
}

CONNECT_SECONDS = 30.0
"""How long one address has to answer, if authenticate_timeout is not shorter; with a greeting, if
it has one to give."""


class Upstream:
    """Connects and logs in to real servers, for all sessions of a worker."""

    def __init__(
        self,
        loop: Loop,
        resolver: Resolver,
        options: Options,
        log: Log,
        tls: "OutgoingTLS | None",
        tally: Tally,
    ) -> None:
        self.loop = loop
        self.resolver = resolver
        self.options = options
        self.log = log
        self.tls = tls
        self.tally = tally

    async def log_in(
        self, server: Endpoint, credentials: Credentials, own_greeting: bytes
    ) -> tuple[Stream, Accepted]:
        """Return a stream to the server on which the user is logged in, and the server's answer.

        Raises a Failure; the connection is then closed.
        """
        with self.tally.stage(Stage.CONNECT):
            stream = await self.connect(server)
        try:
            with self.tally.stage(Stage.LOGIN):
                accepted = await self.negotiate(stream, server.host, credentials, own_greeting)
        except Failure as failure:
            failure.secure = stream.secure
            if failure.goodbye:
                stream.send_last(self.options.service.protocol.farewell)
            stream.close()
            raise
        except BaseException:
            stream.close()
            raise
        return stream, accepted

    async def connect(self, server: Endpoint) -> Stream:
        """Connect to the first of the server's addresses that answers; raises ConnectFailed."""
        reason = "it has no address"
        try:
            addresses = await self.resolver.addresses(server)
        except OSError as error:
            raise ConnectFailed(f"{server}: {error.strerror or error}") from error
        for address in addresses:
            try:
                return await self.connect_to(address)
            except OSError as error:
                reason = error.strerror or "no answer in time"
        raise ConnectFailed(f"{server}: {reason}")

    async def connect_to(self, address: Address) -> Stream:
        """Connect to an address; raises OSError (a TimeoutError among them)."""
        sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        stream = Stream(self.loop, sock, self.options.authenticate_timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.options.tcp_keepalive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            limit = self.options.authenticate_timeout or CONNECT_SECONDS
            greets = self.options.tls.outgoing is not TLSUse.SSL
            await stream.connect(address.sockaddr, min(limit, CONNECT_SECONDS), greets)
        except BaseException:
            stream.close()
            raise
        return stream

    async def negotiate(
        self, stream: Stream, host: str, credentials: Credentials, own_greeting: bytes
    ) -> Accepted:
        """Hold the protocol's dialogue with the real server; raises a Failure."""
        options, tls = self.options, self.tls
        wrap = (lambda sock: tls.wrap(sock, host)) if tls else None
        conversation = Conversation(stream, "REAL", self.log, options.logs_connections, wrap)
        protocol, upgrade = options.service.protocol, UPGRADES[options.tls.outgoing]
        try:
            if wrap and options.tls.outgoing is TLSUse.SSL:
                await stream.start_tls(wrap, "ssl")
            return await conversation.hold(protocol.login(credentials, own_greeting, upgrade))
        except TLSFailed as error:
            raise ServerGone(f"no TLS with the real server: {error}") from error
        except PeerClosed as error:
            raise ServerGone("the real server closed the connection") from error
        except TimeoutError as error:
            raise ServerGone("the real server did not answer in time") from error
        except LineTooLong as error:
            raise NegotiationFailed("the real server sent a line too long") from error
