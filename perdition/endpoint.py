"""Server addresses, as in options and popmaps, and the ends and the security of a connection."""

from enum import StrEnum
from typing import Any, NamedTuple

MAX_PORT = 65535


class Endpoint(NamedTuple):
    """A host and a port, each a name or a number; an empty port means the default port."""

    host: str
    port: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Parse ``host[:port]``, ``[address][:port]`` or an IPv6 address without brackets."""
        if text.startswith("[") and "]" in text:
            host, _, rest = text[1:].partition("]")
            return cls(host, rest.removeprefix(":"))
        if text.count(":") > 1:
            return cls(text)
        host, _, port = text.partition(":")
        return cls(host, port)


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """Parse a list of endpoints, separated by commas."""
    return tuple(Endpoint.parse(part.strip()) for part in text.split(",") if part.strip())


IPV4_MAPPED = "::ffff:"
"""Prefix of IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2)."""


class ConnectionEnds(NamedTuple):
    """Both ends of a client's connection: IP addresses and ports."""

    source: str
    source_port: int
    destination: str
    destination_port: int

    @classmethod
    def between(cls, peer: tuple[Any, ...], own: tuple[Any, ...]) -> "ConnectionEnds":
        """Return the ends from a socket's peer name and own name.

        IPv4-mapped addresses become IPv4 addresses for log, popmaps and limits.
        """
        (source, source_port, *_), (destination, destination_port, *_) = peer, own
        return cls(
            source.removeprefix(IPV4_MAPPED),
            source_port,
            destination.removeprefix(IPV4_MAPPED),
            destination_port,
        )

    def __str__(self) -> str:
        return f"{self.source}:{self.source_port}->{self.destination}:{self.destination_port}"


class Security(StrEnum):
    """How a connection is secured, as the Auth line shows it."""

    PLAINTEXT = "plaintext"
    SSL = "ssl"
    STARTTLS = "starttls"
