"""What a TLS client offers at the very beginning, as far as a server must judge it itself.

A browser that is tricked into speaking to a mail port offers another protocol by ALPN (RFC 7301).
The ``ssl`` module lets such a client in, without a word of what it offered; so its ClientHello
(RFC 8446, section 4.1.2) is read here.
"""

import struct

CLIENT_HELLO = 1
ALPN = 16


class Reader:
    """Cuts a message into its fields; raises ValueError at its end."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def take(self, count: int) -> bytes:
        """Return the next octets."""
        if count > len(self.octets):
            raise ValueError("the message is too short")
        taken, self.octets = self.octets[:count], self.octets[count:]
        return taken

    def vector(self, width: int) -> "Reader":
        """Return the next field that has its length in front, in ``width`` octets."""
        return Reader(self.take(int.from_bytes(self.take(width))))


def offered_protocols(message: bytes) -> list[bytes]:
    """Return the protocols that a ClientHello offers by ALPN; raises ValueError if it is none."""
    reader = Reader(message)
    if reader.take(1)[0] != CLIENT_HELLO:
        raise ValueError("no ClientHello")
    hello = reader.vector(3)
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session
    hello.vector(2)  # ciphers
    hello.vector(1)  # compression
    extensions = hello.vector(2) if hello.octets else Reader(b"")
    while extensions.octets:
        (kind,) = struct.unpack("!H", extensions.take(2))
        body = extensions.vector(2)
        if kind == ALPN:
            offered = body.vector(2)
            protocols = []
            while offered.octets:
                protocols.append(offered.vector(1).octets)
            return protocols
    return []
