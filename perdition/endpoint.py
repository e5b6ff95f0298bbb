"""Where a server is, as options and popmaps write it."""

from typing import NamedTuple


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
