"""The interface that streams and splices use: a socket, or TLS over one."""

from typing import Protocol


class TLSError(OSError):
    """TLS failed, in OpenSSL or in our own checks of the peer; ``strerror`` has the reason."""

    def __init__(self, why: str) -> None:
        super().__init__(0, why)


class WantRead(OSError):
    """TLS must read before it can continue, even in a write."""


class WantWrite(OSError):
    """TLS must write before it can continue, even in a read."""


NOT_NOW = (BlockingIOError, WantRead, WantWrite)
"""Raised by a non-blocking connection that would have to wait."""


NO_TLS = "the peer does not speak TLS"
REASONS = {
    "http request": NO_TLS,
    "https proxy request": NO_TLS,
    "unknown protocol": NO_TLS,
    "wrong version number": NO_TLS,
}
"""Clearer texts for some of OpenSSL's reasons."""


class TLSHandshakeFailed(Exception):
    """TLS could not be negotiated; the text is the reason for the log."""


class Transport(Protocol):
    """A non-blocking connection."""

    def fileno(self) -> int: ...
    def recv(self, count: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def close(self) -> None: ...


class TLSTransport(Transport, Protocol):
    """A non-blocking connection with TLS.

    ``pending`` returns the number of decrypted bytes that were not read yet, which no selector
    reports. ``unwrap`` sends close_notify. ``version`` returns OpenSSL's name of the negotiated
    version of TLS.
    """

    def do_handshake(self) -> None: ...
    def pending(self) -> int: ...
    def unwrap(self) -> object: ...
    def version(self) -> str | None: ...


def error_text(error: Exception) -> str:
    """Return the reason of an error of OpenSSL or of the system."""
    text = str(getattr(error, "strerror", None) or error)
    return REASONS.get(text, text)
