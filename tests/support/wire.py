"""A bare connection: bytes out, bytes in, both counted and remembered."""

import array
import fcntl
import re
import socket
import ssl
import termios
from types import TracebackType
from typing import Self

from tests.support.wait import DEADLINE, until

_REMEMBERED = 4000
_CHUNK = 1 << 18


class Wire:
    """One side of a connection, without a protocol. Its transcript is in every complaint."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(DEADLINE)
        self.own_address = "{}:{}".format(*self._socket.getsockname())
        self._buffer = bytearray()
        self._transcript = ""
        self.sent = 0
        self.received = 0

    @classmethod
    def to(cls, address: tuple[str, int]) -> Self:
        """A client's side."""
        return cls(socket.create_connection(address, DEADLINE))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close without a word."""
        self._socket.close()

    def start_tls(self, context: ssl.SSLContext, host: str | None = None) -> ssl.SSLSocket:
        """Go on with TLS: as a client that wants *host*, or without one as a server."""
        assert not self._buffer, f"unread: {bytes(self._buffer)!r}\n{self._transcript}"
        self._remember("tls", (host or "").encode())
        secure = context.wrap_socket(self._socket, server_side=not host, server_hostname=host)
        self._socket = secure
        return secure

    def bare_socket(self) -> socket.socket:
        """The socket, without a deadline, for a library that does everything itself."""
        self._socket.settimeout(None)
        return self._socket

    def send(self, data: bytes) -> None:
        """Send the bytes."""
        self._remember("out", data)
        self._socket.sendall(data)
        self.sent += len(data)

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._remember("out", b"(half-close)")
        self._socket.shutdown(socket.SHUT_WR)

    def read_until(self, pattern: bytes) -> bytes:
        """Everything up to the end of what matches the pattern."""
        while not (found := re.search(pattern, self._buffer)):
            if not self._receive():
                raise AssertionError(f"closed before {pattern!r}:\n{self._transcript}")
        return self._take(found.end())

    def read_exactly(self, count: int) -> bytes:
        """That many bytes."""
        while len(self._buffer) < count:
            if not self._receive():
                raise AssertionError(f"closed before {count} bytes:\n{self._transcript}")
        return self._take(count)

    def read_line(self) -> bytes:
        """The next line, with its end."""
        return self.read_until(rb"\n")

    def read_to_end(self) -> bytes:
        """Everything until the other side has closed, or reset, the connection."""
        while self._receive():
            pass
        return self._take(len(self._buffer))

    def ask(self, command: bytes, answer: bytes) -> bytes:
        """Send a line and read until the answer's pattern."""
        self.send(command + b"\r\n")
        return self.read_until(answer)

    def wait_for_stall(self) -> None:
        """Read nothing until no more arrives, because every buffer on the way here is full."""
        looks = [-1]

        def full() -> bool:
            looks.append(self._unread())
            return looks[-1] == looks[-2] > 0

        until(full, lambda: f"the sender stalls: {looks[-1]} bytes wait\n{self._transcript}")

    def start_counting(self) -> None:
        """Count from here on; nothing may be on its way."""
        assert not self._buffer, f"unread: {bytes(self._buffer)!r}\n{self._transcript}"
        self.sent = self.received = 0

    def _unread(self) -> int:
        """How many bytes the system holds for us."""
        count = array.array("i", [0])
        fcntl.ioctl(self._socket, termios.FIONREAD, count)
        return count[0]

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            raise AssertionError(f"nothing for {DEADLINE} s:\n{self._transcript}") from None
        except ConnectionResetError:
            data = b""
        self._remember("in", data)
        self._buffer += data
        self.received += len(data)
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _remember(self, who: str, data: bytes) -> None:
        """Keep the latest of the conversation, of long data the beginning."""
        line = f"{who}: {data[:200]!r}" + (f"... {len(data)} bytes" if len(data) > 200 else "")
        self._transcript = f"{self._transcript}{line}\n"[-_REMEMBERED:]
