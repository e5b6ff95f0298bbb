"""Clients of perdition, byte by byte: connections, logged-in sessions, and endless logins."""

import array
import base64
import fcntl
import re
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.perdition import PerditionProcess
from tests.support.wait import DEADLINE, until

_REMEMBERED = 4000
_CHUNK = 1 << 18
_LOGINS_IN_A_ROW = 20


class RawConnection:
    """One side of a connection, without a protocol. Failures show what was sent and received."""

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
        """Connect as a client."""
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
        """Close without a TLS close_notify."""
        self._socket.close()

    def start_tls(self, context: ssl.SSLContext, host: str | None = None) -> ssl.SSLSocket:
        """Begin TLS: as the client of *host*, or without one as the server."""
        assert not self._buffer, f"unread: {bytes(self._buffer)!r}\n{self._transcript}"
        self._remember("tls", (host or "").encode())
        secure = context.wrap_socket(self._socket, server_side=not host, server_hostname=host)
        self._socket = secure
        return secure

    def bare_socket(self) -> socket.socket:
        """The socket, without a timeout, for a library that does everything itself."""
        self._socket.settimeout(None)
        return self._socket

    def send(self, data: bytes) -> None:
        self._remember("out", data)
        self._socket.sendall(data)
        self.sent += len(data)

    def half_close(self) -> None:
        """Shut down the sending side only."""
        self._remember("out", b"(half-close)")
        self._socket.shutdown(socket.SHUT_WR)

    def read_until(self, pattern: bytes) -> bytes:
        """Everything up to the end of what matches the pattern."""
        while not (found := re.search(pattern, self._buffer)):
            if not self._receive():
                raise AssertionError(f"closed before {pattern!r}:\n{self._transcript}")
        return self._take(found.end())

    def read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._receive():
                raise AssertionError(f"closed before {count} bytes:\n{self._transcript}")
        return self._take(count)

    def read_line(self) -> bytes:
        """The next line, with its end."""
        return self.read_until(rb"\n")

    def read_line_or_end(self) -> bytes:
        """All that comes with the next line, or before the connection is closed: perhaps b""."""
        while b"\n" not in self._buffer and self._receive():
            pass
        return self._take(len(self._buffer))

    def read_to_end(self) -> bytes:
        """Everything until the other side has closed, or reset, the connection."""
        while self._receive():
            pass
        return self._take(len(self._buffer))

    def ask(self, command: bytes, answer: bytes) -> bytes:
        """Send a line and read until the answer's pattern."""
        self.send(command + b"\r\n")
        return self.read_until(answer)

    def has_unread(self) -> bool:
        """Whether anything has arrived that was not read."""
        return self._unread() > 0

    def wait_for_stall(self) -> None:
        """Read nothing until no more arrives, because every buffer on the way here is full."""
        looks = [-1]

        def full() -> bool:
            looks.append(self._unread())
            return looks[-1] == looks[-2] > 0

        until(full, lambda: f"the sender stalls: {looks[-1]} bytes wait\n{self._transcript}")

    def start_counting(self) -> None:
        """Set the counters of bytes to 0; all that was received must have been read."""
        assert not self._buffer, f"unread: {bytes(self._buffer)!r}\n{self._transcript}"
        self.sent = self.received = 0

    def _unread(self) -> int:
        """How many bytes the kernel has for us."""
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

    def _remember(self, direction: str, data: bytes) -> None:
        """Keep the latest lines, and of long data the beginning."""
        line = f"{direction}: {data[:200]!r}"
        line += f"... {len(data)} bytes" if len(data) > 200 else ""
        self._transcript = f"{self._transcript}{line}\n"[-_REMEMBERED:]


class ClientTLS(NamedTuple):
    """How a client uses TLS: "ssl" from the first byte, or "starttls"."""

    use: str
    context: ssl.SSLContext
    host: str = "localhost"


class ProtocolCommands(NamedTuple):
    """The commands of a protocol. An exchange is a command and the pattern of its answer's end.

    `secured` is the pattern of what the server sends without being asked once TLS has begun.
    """

    greeting: bytes
    starttls: tuple[bytes, bytes]
    secured: bytes
    login: tuple[tuple[bytes, bytes], ...]
    noop: tuple[bytes, bytes]
    logout: bytes

    def credentials(self, user: str, password: str) -> list[tuple[bytes, bytes]]:
        """The exchanges that log that user in."""
        values = {
            b"user": user.encode(),
            b"password": password.encode(),
            b"plain": base64.b64encode(f"\0{user}\0{password}".encode()),
        }
        return [(command % values, answer) for command, answer in self.login]


PROTOCOLS = {
    "pop3": ProtocolCommands(
        greeting=rb"\+OK.*\r\n",
        starttls=(b"STLS", rb"\+OK.*\r\n"),
        secured=b"",
        login=((b"USER %(user)b", rb"\+OK.*\r\n"), (b"PASS %(password)b", rb"\+OK.*\r\n")),
        noop=(b"STAT", rb"\+OK \d+ \d+\r\n"),
        logout=b"QUIT",
    ),
    "imap4": ProtocolCommands(
        greeting=rb"\* OK.*\r\n",
        starttls=(b"s STARTTLS", rb"(?m)^s OK.*\r\n"),
        secured=b"",
        login=((b"a LOGIN %(user)b %(password)b", rb"(?m)^a OK.*\r\n"),),
        noop=(b"b NOOP", rb"(?m)^b OK.*\r\n"),
        logout=b"z LOGOUT",
    ),
    "managesieve": ProtocolCommands(
        greeting=rb"(?m)^OK.*\r\n",
        starttls=(b"STARTTLS", rb"OK.*\r\n"),
        secured=rb"(?m)^OK.*\r\n",
        login=((b'AUTHENTICATE "PLAIN" "%(plain)b"', rb"OK.*\r\n"),),
        noop=(b"LISTSCRIPTS", rb"(?m)^OK.*\r\n"),
        logout=b"LOGOUT",
    ),
}


def connect_and_read_greeting(
    address: tuple[str, int], protocol: str, tls: ClientTLS | None = None
) -> RawConnection:
    """A connection on which the client is about to send its first command."""
    connection = RawConnection.to(address)
    try:
        read_greeting(connection, protocol, tls)
    except BaseException:
        connection.close()
        raise
    return connection


def read_greeting(connection: RawConnection, protocol: str, tls: ClientTLS | None) -> None:
    """Read all that comes before the client's first command, with TLS where that is wanted."""
    commands = PROTOCOLS[protocol]
    if tls and tls.use == "ssl":
        connection.start_tls(tls.context, tls.host)
    connection.read_until(commands.greeting)
    if tls and tls.use == "starttls":
        connection.ask(*commands.starttls)
        connection.start_tls(tls.context, tls.host)
        connection.read_until(commands.secured)


class LoggedInClient(RawConnection):
    """A connection that has just logged a user in; its bytes are counted from here on."""

    def __init__(
        self,
        address: tuple[str, int],
        protocol: str,
        user: str,
        password: str,
        tls: ClientTLS | None = None,
    ) -> None:
        super().__init__(socket.create_connection(address, DEADLINE))
        self._commands = PROTOCOLS[protocol]
        try:
            read_greeting(self, protocol, tls)
            for command, answer in self._commands.credentials(user, password):
                self.ask(command, answer)
        except BaseException:
            self.close()
            raise
        self.start_counting()

    def use(self) -> None:
        """Send the real server a command, and read the answer."""
        self.ask(*self._commands.noop)

    def log_out(self) -> bytes:
        """Log out, and read until the other side has closed the connection."""
        self.send(self._commands.logout + b"\r\n")
        rest = self.read_to_end()
        self.close()
        return rest


class OpenClients:
    """The connections that a test holds open; they are closed with it."""

    def __init__(self, password_of: Callable[[str], str]) -> None:
        self._password_of = password_of
        self._open: list[RawConnection] = []

    def log_in(self, proxy: PerditionProcess, user: str = "joe") -> LoggedInClient:
        client = LoggedInClient(proxy.address, proxy.protocol, user, self._password_of(user))
        self._open.append(client)
        return client

    def connect(self, proxy: PerditionProcess, *, resets: bool = False) -> RawConnection:
        """A connection on which nothing was read or sent; with `resets` close() sends a RST."""
        sock = socket.create_connection(proxy.address, DEADLINE)
        if resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection = RawConnection(sock)
        self._open.append(connection)
        return connection

    def close(self) -> None:
        """Close all; some may be closed already."""
        for connection in self._open:
            connection.close()


class RepeatedLogins:
    """As a context, a thread in which joe logs in, sends a command and logs out, repeatedly."""

    def __init__(self, proxy: PerditionProcess, password: str) -> None:
        self._proxy = proxy
        self._password = password
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._log_in_repeatedly)
        self._in_a_row = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def expect_successes(self, count: int = _LOGINS_IN_A_ROW, deadline: float = DEADLINE) -> None:
        """Wait until *count* logins in a row have succeeded since `start_counting`."""
        until(
            lambda: self._in_a_row >= count,
            lambda: f"{count} logins; failures: {self.failures}\n{self._proxy.evidence()}",
            deadline,
        )

    def start_counting(self) -> None:
        self._in_a_row = 0

    def _log_in_repeatedly(self) -> None:
        while not self._done.is_set():
            try:
                client = LoggedInClient(
                    self._proxy.address, self._proxy.protocol, "joe", self._password
                )
                with client:
                    client.use()
                    client.log_out()
            except (AssertionError, OSError) as error:
                self.failures.append(str(error))
                self._in_a_row = 0
            else:
                self._in_a_row += 1
