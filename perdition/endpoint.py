"""Addresses: of servers, as options and popmaps write them, and of both ends of a connection."""

from typing import Any, NamedTuple


class Endpoint(NamedTuple):
    """A host and a port, as names or numbers; an empty port means the default one."""

    host: str
    port: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read ``host[:port]``, ``[address][:port]`` or an IPv6 address without brackets."""
        if text.startswith("[") and "]" in text:
            host, _, rest = text[1:].partition("]")
            return cls(host, rest.removeprefix(":"))
        if text.count(":") > 1:
            return cls(text)
        host, _, port = text.partition(":")
        return cls(host, port)


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Read a list divided by commas."""
    return tuple(Endpoint.parse(part.strip()) for part in text.split(",") if part.strip())


MAPPED = "::ffff:"
"""What an IPv4 address has in front where it is written as an IPv6 one (RFC 4291)."""


class ConnectionEnds(NamedTuple):
    """Both ends of a client's connection: IP addresses and ports."""

    source: str
    source_port: int
    destination: str
    destination_port: int

    @classmethod
    def between(cls, peer: tuple[Any, ...], own: tuple[Any, ...]) -> "ConnectionEnds":
        """Return the ends that a socket tells of itself.

        IPv4 that comes by a socket for both families is IPv4, in the log as for popmaps and limits.
        """
        (source, source_port, *_), (destination, destination_port, *_) = peer, own
        return cls(
            source.removeprefix(MAPPED),
            source_port,
            destination.removeprefix(MAPPED),
            destination_port,
        )

    def __str__(self) -> str:
        return f"{self.source}:{self.source_port}->{self.destination}:{self.destination_port}"
