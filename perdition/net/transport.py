"""What a stream and a splice need of a connection, be it a socket or TLS over one."""

from typing import Protocol


class TLSError(OSError):
    """OpenSSL, or what we demand of a peer, does not let TLS go on; ``strerror`` says why."""

    def __init__(self, why: str) -> None:
        super().__init__(0, why)


class WantRead(OSError):
    """TLS goes on when there is something to read, whatever was asked of it."""


class WantWrite(OSError):
    """TLS goes on when there is room to write, whatever was asked of it."""


NOT_NOW = (BlockingIOError, WantRead, WantWrite)
"""What a connection raises that can neither read nor write without waiting."""


NO_TLS = "the peer does not speak TLS"
REASONS = {
    "http request": NO_TLS,
    "https proxy request": NO_TLS,
    "unknown protocol": NO_TLS,
    "wrong version number": NO_TLS,
}
"""OpenSSL's reasons that its own words do not explain to an operator."""


class TLSHandshakeFailed(Exception):
    """TLS could not be negotiated; the text says why, for the log."""


class Transport(Protocol):
    """A non-blocking connection."""

    def fileno(self) -> int: ...
    def recv(self, count: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def send(self, octets: bytes | memoryview, /) -> int: ...
    def close(self) -> None: ...


class TLSTransport(Transport, Protocol):
    """A non-blocking connection with TLS.

    ``pending`` counts octets that are decrypted and wait in it, where no selector sees them.
    ``unwrap`` tells the peer that nothing more will come. ``version`` is what OpenSSL calls the
    version of TLS that was agreed on.
    """

    def do_handshake(self) -> None: ...
    def pending(self) -> int: ...
    def unwrap(self) -> object: ...
    def version(self) -> str | None: ...


def error_text(error: Exception) -> str:
    """Return why OpenSSL, or the system, does not go on, in words."""
    text = str(getattr(error, "strerror", None) or error)
    return REASONS.get(text, text)
