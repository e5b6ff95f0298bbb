"""Hosts, ports and addresses: how they are written, looked up, and bound."""

import errno
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.net.loop import Loop
from perdition.net.pool import Pool, PoolFull

T = TypeVar("T")

FRESH_SECONDS = 10.0
"""How long a name's addresses are used again without asking."""
REMEMBERED = 10_000
"""How many names' addresses are kept at once."""
LOOKUP_SECONDS = 15.0
"""How long a lookup may take; the resolver itself would try for longer."""
OWN_SECONDS = 3.0
"""How long a client may wait for the name that it is greeted with."""
OWN_FRESH_SECONDS = 60.0
"""How long that name, or that there is none, is used again without asking."""
LOOKUP_THREADS = 4
OWN_THREADS = 2
LOOKUP_WAITING = 500
BACKLOG = 4096
HIGHEST_PORT = 65535


class Address(NamedTuple):
    """Where a socket can connect to or be bound."""

    family: int
    sockaddr: tuple[Any, ...]


def lookup(endpoint: Endpoint, flags: int = 0) -> list[Address]:
    """Return an endpoint's addresses, in the system's order; raises OSError."""
    if endpoint.port.isdecimal() and int(endpoint.port) > HIGHEST_PORT:
        raise OSError(errno.EINVAL, f"there is no port {endpoint.port}")
    try:
        found = socket.getaddrinfo(
            endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=flags
        )
    except UnicodeError as error:
        raise OSError(errno.EINVAL, "this can be no name of a host or port") from error
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def reverse_lookup(address: str) -> str:
    """Return the name of an IP address, or "" if it has none."""
    with suppress(OSError):
        return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
    return ""


class Resolver:
    """Looks names up in threads, and remembers them for some seconds.

    ``numeric`` (the manual's ``no_lookup``) makes it take numbers only.
    """

    def __init__(self, loop: Loop, numeric: bool) -> None:
        self.loop = loop
        self.numeric = numeric
        self.pool = Pool(loop, "resolver", LOOKUP_THREADS, LOOKUP_WAITING)
        self.own_pool = Pool(loop, "own names", OWN_THREADS, LOOKUP_WAITING)
        self.known: dict[object, tuple[float, Any]] = {}

    async def addresses(self, endpoint: Endpoint) -> list[Address]:
        """Return an endpoint's addresses; raises OSError (a TimeoutError among them)."""
        with suppress(OSError):
            return lookup(endpoint, NUMERIC)
        if self.numeric:
            raise OSError("no_lookup is on: only an IP address and a port number will do")
        found: list[Address] | None = self.remembered(endpoint)
        if found is None:
            try:
                found = await self.pool.call(LOOKUP_SECONDS, lookup, endpoint)
            except PoolFull as error:
                raise OSError(f"resolver: {error}") from error
            self.remember(endpoint, found, FRESH_SECONDS)
        return found

    async def name(self, address: str) -> str:
        """Return the name of an IP address of our own, or "" if nobody tells it in time.

        Names that clients make us look up have other threads: they hold up no greeting.
        """
        if self.numeric:
            return ""
        found = self.remembered(address)
        if found is None:
            try:
                found = await self.own_pool.call(OWN_SECONDS, reverse_lookup, address)
            except (OSError, PoolFull):
                found = ""  # or each client would wait for a dead name server
            self.remember(address, found, OWN_FRESH_SECONDS)
        return str(found)

    def remembered(self, key: object) -> Any:
        """Return what was found some seconds ago, or None."""
        until, found = self.known.get(key, (0.0, None))
        return found if until > self.loop.now else None

    def remember(self, key: object, found: object, seconds: float) -> None:
        """Keep what was found for some seconds."""
        if len(self.known) >= REMEMBERED:
            self.known.clear()
        self.known[key] = self.loop.now + seconds, found


class Listening:
    """Binds listening sockets, or takes over those that listen to the same address already.

    ``inherited`` are such sockets; those that are taken over are removed from it.
    """

    def __init__(
        self, keepalive: bool, numeric: bool, inherited: dict[Address, socket.socket]
    ) -> None:
        self.keepalive = keepalive
        self.flags = socket.AI_PASSIVE | (NUMERIC if numeric else 0)
        self.inherited = inherited

    def listen(self, endpoints: Iterable[Endpoint], default_port: str) -> list[socket.socket]:
        """Listen to each endpoint; without any, to all addresses of both families.

        Raises StartupError that names the address and what is wrong with it.
        """
        sockets: list[socket.socket] = []
        for endpoint in endpoints:
            wanted = Endpoint(endpoint.host, endpoint.port or default_port)
            try:
                found = lookup(wanted, self.flags)
            except OSError as error:
                raise StartupError(
                    f"bind_address {wanted}: {error.strerror}; "
                    "give an address and a port of this host"
                ) from error
            sockets += map(self.bind, found)
        return sockets or self.listen_everywhere(default_port)

    def listen_everywhere(self, port: str) -> list[socket.socket]:
        """Listen to a port of all IPv4 and, where the system has it, all IPv6 addresses."""
        try:
            [address, *_] = lookup(Endpoint("0.0.0.0", port), self.flags)
        except OSError as error:
            raise StartupError(
                f"listen_port {port}: {error.strerror}; give a number or name"
            ) from error
        sockets = [self.bind(address)]
        if socket.has_dualstack_ipv6():
            number = sockets[0].getsockname()[1]
            sockets.append(self.bind(Address(socket.AF_INET6, ("::", number, 0, 0))))
        return sockets

    def bind(self, address: Address) -> socket.socket:
        """Return a socket that listens to an address."""
        if sock := self.inherited.pop(address, None):
            return self.prepare(sock)
        sock = self.prepare(socket.socket(address.family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address.sockaddr)
            sock.listen(BACKLOG)
        except OSError as error:
            host, port = address.sockaddr[:2]
            raise StartupError(
                f"cannot listen to {host}:{port}: {error.strerror}; "
                "see bind_address and listen_port, or end what listens there"
            ) from error
        return sock

    def prepare(self, sock: socket.socket) -> socket.socket:
        """Set the options that accepted sockets inherit, once; return the socket."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, self.keepalive)
        return sock
