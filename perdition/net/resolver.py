"""Name resolution: the addresses of servers, and the names of our own addresses."""

import errno
import socket
from contextlib import suppress
from typing import Any, NamedTuple

from perdition.endpoint import MAX_PORT, Endpoint
from perdition.net.loop import Loop
from perdition.net.thread_pool import ThreadPool, ThreadPoolFull
from perdition.options.values import is_number

ADDRESS_CACHE_SECONDS = 10.0
"""How long the addresses of a server are cached."""
MAX_CACHE_ENTRIES = 10_000
RESOLVE_SECONDS = 15.0
"""Time limit for a lookup; the system's resolver may take longer."""
OWN_NAME_SECONDS = 3.0
"""Time limit for the lookup of our own name, which delays the greeting."""
OWN_NAME_CACHE_SECONDS = 60.0
"""How long our own name is cached, or the fact that there is none."""
RESOLVER_THREADS = 4
OWN_NAME_THREADS = 2
MAX_WAITING_LOOKUPS = 500


class Address(NamedTuple):
    """A socket address: what a socket can connect to or be bound to."""

    family: int
    sockaddr: tuple[Any, ...]


def resolve(endpoint: Endpoint, flags: int = 0) -> list[Address]:
    """Return an endpoint's addresses, in the system's order; raises OSError."""
    if is_number(endpoint.port) and int(endpoint.port) > MAX_PORT:
        raise OSError(errno.EINVAL, f"port {endpoint.port}: expected a number up to {MAX_PORT}")
    try:
        infos = socket.getaddrinfo(
            endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=flags
        )
    except UnicodeError as error:
        raise OSError(errno.EINVAL, "not a valid name of a host or port") from error
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in infos]


NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def reverse_resolve(address: str) -> str:
    """Return the name of an IP address, or "" if it has none."""
    with suppress(OSError):
        return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
    return ""


class Resolver:
    """Looks up names in threads, and caches the results for some seconds.

    With ``numeric`` (the option ``no_lookup``) it accepts only numbers.
    """

    def __init__(self, loop: Loop, numeric: bool) -> None:
        self.loop = loop
        self.numeric = numeric
        self.pool = ThreadPool(loop, "resolver", RESOLVER_THREADS, MAX_WAITING_LOOKUPS)
        self.reverse_pool = ThreadPool(loop, "own names", OWN_NAME_THREADS, MAX_WAITING_LOOKUPS)
        self.cache: dict[object, tuple[float, Any]] = {}

    async def addresses(self, endpoint: Endpoint) -> list[Address]:
        """Return an endpoint's addresses; raises OSError (a TimeoutError among them)."""
        with suppress(OSError):
            return resolve(endpoint, NUMERIC)
        if self.numeric:
            raise OSError("no_lookup is set: expected an IP address and a port number")
        addresses: list[Address] | None = self.cached(endpoint)
        if addresses is None:
            try:
                addresses = await self.pool.call(RESOLVE_SECONDS, resolve, endpoint)
            except TimeoutError as error:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"name lookup took longer than {RESOLVE_SECONDS:g} s"
                ) from error
            except ThreadPoolFull as error:
                raise OSError(f"resolver: {error}") from error
            self.remember(endpoint, addresses, ADDRESS_CACHE_SECONDS)
        return addresses

    async def name(self, address: str) -> str:
        """Return the name of an IP address of our own, or "" if it is not found in time.

        It has its own threads, so that the names of servers never delay a greeting.
        """
        if self.numeric:
            return ""
        hostname = self.cached(address)
        if hostname is None:
            try:
                hostname = await self.reverse_pool.call(OWN_NAME_SECONDS, reverse_resolve, address)
            except (OSError, ThreadPoolFull):
                hostname = ""  # cached too: otherwise each client would wait for a dead name server
            self.remember(address, hostname, OWN_NAME_CACHE_SECONDS)
        return str(hostname)

    def cached(self, key: object) -> Any:
        """Return a result that has not expired, or None."""
        until, result = self.cache.get(key, (0.0, None))
        return result if until > self.loop.now else None

    def remember(self, key: object, result: object, seconds: float) -> None:
        """Cache a result for some seconds."""
        if len(self.cache) >= MAX_CACHE_ENTRIES:
            self.cache.clear()
        self.cache[key] = self.loop.now + seconds, result
