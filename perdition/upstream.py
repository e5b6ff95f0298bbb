"""From a destination to a logged-in real server."""

import socket

from perdition.converse import Conversation
from perdition.failure import ConnectFailed, Failure, NegotiationFailed, ServerGone
from perdition.log import Log
from perdition.net.address import Address, Endpoint, Resolver
from perdition.net.loop import Loop
from perdition.net.stream import PeerClosed, Stream
from perdition.options import Options
from perdition.protocol.dialogue import Accepted, Credentials, LineTooLong, Upgrade

CONNECT_SECONDS = 30.0
"""How long one address has to answer, if authenticate_timeout is not shorter."""


class Upstream:
    """Connects and logs in to real servers, for all sessions of a worker."""

    def __init__(self, loop: Loop, resolver: Resolver, options: Options, log: Log) -> None:
        self.loop = loop
        self.resolver = resolver
        self.options = options
        self.log = log

    async def log_in(
        self, server: Endpoint, credentials: Credentials, own_greeting: bytes
    ) -> tuple[Stream, Accepted]:
        """Return a stream to the server on which the user is logged in, and the server's answer.

        Raises a Failure; the connection is then closed.
        """
        stream = await self.connect(server)
        try:
            accepted = await self.negotiate(stream, credentials, own_greeting)
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
            await stream.connect(address.sockaddr, min(limit, CONNECT_SECONDS))
        except BaseException:
            stream.close()
            raise
        return stream

    async def negotiate(
        self, stream: Stream, credentials: Credentials, own_greeting: bytes
    ) -> Accepted:
        """Hold the protocol's dialogue with the real server; raises a Failure."""
        options = self.options
        conversation = Conversation(stream, "REAL", self.log, options.logs_connections)
        protocol = options.service.protocol
        try:
            return await conversation.hold(protocol.login(credentials, own_greeting, Upgrade.NEVER))
        except PeerClosed as error:
            raise ServerGone("the real server closed the connection") from error
        except TimeoutError as error:
            raise ServerGone("the real server did not answer in time") from error
        except LineTooLong as error:
            raise NegotiationFailed("the real server sent a line too long") from error
