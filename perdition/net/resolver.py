"""Name resolution: addresses of servers, and names of our own addresses."""

import errno
import socket
from contextlib import suppress
from typing import Any, NamedTuple

from perdition.endpoint import Endpoint
from perdition.net.loop import Loop
from perdition.net.thread_pool import ThreadPool, ThreadPoolFull

FRESH_SECONDS = 10.0
"""How long a name's addresses are used again without asking."""
REMEMBERED = 10_000
"""How many names' addresses are kept at once."""
RESOLVE_SECONDS = 15.0
"""How long a lookup may take; the resolver itself would try for longer."""
OWN_SECONDS = 3.0
"""How long a client may wait for the name that it is greeted with."""
OWN_FRESH_SECONDS = 60.0
"""How long that name, or that there is none, is used again without asking."""
RESOLVER_THREADS = 4
OWN_THREADS = 2
RESOLVER_WAITING = 500
HIGHEST_PORT = 65535


class Address(NamedTuple):
    """Where a socket can connect to or be bound."""

    family: int
    sockaddr: tuple[Any, ...]


def resolve(endpoint: Endpoint, flags: int = 0) -> list[Address]:
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


def reverse_resolve(address: str) -> str:
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
        self.pool = ThreadPool(loop, "resolver", RESOLVER_THREADS, RESOLVER_WAITING)
        self.own_pool = ThreadPool(loop, "own names", OWN_THREADS, RESOLVER_WAITING)
        self.known: dict[object, tuple[float, Any]] = {}

    async def addresses(self, endpoint: Endpoint) -> list[Address]:
        """Return an endpoint's addresses; raises OSError (a TimeoutError among them)."""
        with suppress(OSError):
            return resolve(endpoint, NUMERIC)
        if self.numeric:
            raise OSError("no_lookup is on: only an IP address and a port number will do")
        found: list[Address] | None = self.remembered(endpoint)
        if found is None:
            try:
                found = await self.pool.call(RESOLVE_SECONDS, resolve, endpoint)
            except ThreadPoolFull as error:
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
                found = await self.own_pool.call(OWN_SECONDS, reverse_resolve, address)
            except (OSError, ThreadPoolFull):
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
