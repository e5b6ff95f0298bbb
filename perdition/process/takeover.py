"""Takeover: a new master replaces the running one without a client noticing.

The running master, the predecessor, listens on a Unix socket next to its pid file, which it binds
before it drops its privileges. Each side verifies with SO_PEERCRED that the other one runs as root
or as the user that started it. When a successor connects, the predecessor sends it copies of all
listening sockets and continues to serve. The successor then sends

    SERVING  it serves: the predecessor stops accepting and lets its sessions end
    REOPEN   it got SIGHUP: the predecessor reopens its log
    STOP     it was told to stop: the predecessor stops as at SIGTERM

If it closes the connection instead, because it cannot start, the predecessor continues unaffected.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum

from perdition.failure import StartupError
from perdition.net.resolver import Address
from perdition.privileges import bind_with_umask
from perdition.process.connection_limit import ConnectionLimit

VERSION = 1

HEAD = struct.Struct("!BI")
"""A StateItem and its number."""

CREDENTIALS = struct.Struct("iII")
"""Process, user and group id of SO_PEERCRED."""

BATCH = 64
"""Maximum number of descriptors in a message; the kernel's limit is 253."""

STATE_SECONDS = 5.0
"""Time limit for the predecessor to send its state."""

PRIVATE_UMASK = 0o177


class StateItem(IntEnum):
    """What the predecessor sends, each with descriptors and a number."""

    VERSION = 0
    """The number is the version of this protocol."""
    TAKEOVER_SOCKET = 1
    """The socket that successors connect to."""
    LISTENERS = 2
    """The number is 1 if a service manager has passed them."""
    METRICS_SOCKET = 3
    CONNECTION_LIMIT = 4
    """The number is the limit."""
    LAST = 5


class SuccessorMessage(IntEnum):
    """What the successor sends."""

    SERVING = 0
    STOP = 1
    REOPEN = 2


class TakeoverState:
    """The sockets that a master passes to its successor; empty for a master without predecessor.

    ``from_service_manager`` tells whether a service manager has opened the listeners, because it
    tells only the first master.
    """

    def __init__(self) -> None:
        self.takeover_socket: socket.socket | None = None
        self.listeners: dict[Address, socket.socket] = {}
        self.metrics_socket: socket.socket | None = None
        self.connection_limit: ConnectionLimit | None = None
        self.from_service_manager = False

    def messages(self) -> Iterator[tuple[StateItem, int, list[int]]]:
        """Yield each item with its number and descriptors, in the order in which they are sent."""
        yield StateItem.VERSION, VERSION, []
        if self.takeover_socket:
            yield StateItem.TAKEOVER_SOCKET, 0, [self.takeover_socket.fileno()]
        descriptors = [sock.fileno() for sock in self.listeners.values()]
        for start in range(0, len(descriptors), BATCH):
            yield StateItem.LISTENERS, self.from_service_manager, descriptors[start : start + BATCH]
        if self.metrics_socket:
            yield StateItem.METRICS_SOCKET, 0, [self.metrics_socket.fileno()]
        if limit := self.connection_limit:
            yield StateItem.CONNECTION_LIMIT, limit.limit, [limit.source, limit.sink]
        yield StateItem.LAST, 0, []

    def add(self, item: int, number: int, descriptors: list[int]) -> None:
        """Add a received item; raises ValueError for one that no version of perdition sends."""
        match item, descriptors:
            case StateItem.VERSION, [] if number == VERSION:
                pass
            case StateItem.TAKEOVER_SOCKET, [descriptor]:
                self.takeover_socket = socket.socket(fileno=descriptor)
            case StateItem.LISTENERS, [*_]:
                sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                self.listeners |= by_address(sockets)
                self.from_service_manager = bool(number)
            case StateItem.METRICS_SOCKET, [descriptor]:
                self.metrics_socket = socket.socket(fileno=descriptor)
            case StateItem.CONNECTION_LIMIT, [source, sink]:
                self.connection_limit = ConnectionLimit(number, (source, sink))
            case _:
                raise ValueError(f"item {item} with number {number}")

    def close(self) -> None:
        """Close the sockets that the successor does not use."""
        for sock in (*self.listeners.values(), self.metrics_socket):
            if sock:
                sock.close()
        if self.connection_limit:
            self.connection_limit.close()


def by_address(sockets: list[socket.socket]) -> dict[Address, socket.socket]:
    """Return listening sockets by the address that they listen on."""
    return {Address(sock.family, sock.getsockname()): sock for sock in sockets}


class TakeoverListener:
    """The predecessor's side: the socket for successors, and the one that has connected."""

    def __init__(self, path: str, inherited: socket.socket | None) -> None:
        """Listen at ``path``, or use the socket of our own predecessor; raises StartupError."""
        self.path = path
        self.starter = os.geteuid()
        self.sock = inherited or self.bind()
        self.successor: socket.socket | None = None

    def bind(self) -> socket.socket:
        """Return a listening socket; replaces the socket of a dead process."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            bind_with_umask(sock, self.path, PRIVATE_UMASK)
            sock.listen()
        except OSError as error:
            raise StartupError(
                f"{self.path}: {error.strerror or error}; set pid_file to another directory"
            ) from error
        return sock

    def sockets(self) -> list[socket.socket]:
        """Return the sockets that must not be open in any other process."""
        return [self.sock, *([self.successor] if self.successor else [])]

    def enable_sigio(self) -> None:
        """Send SIGIO to this process on input, until a successor does the same."""
        enable_sigio(self.sock)

    def receive(self, state: Callable[[], TakeoverState]) -> Iterator[SuccessorMessage]:
        """Accept a successor and send it the state; yield the messages that have arrived."""
        with suppress(OSError):  # there is no further connection, or the socket is closed
            while True:
                caller, _ = self.sock.accept()
                self.accept_successor(caller, state)
        while self.successor:
            try:
                message = self.successor.recv(1)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if message and message[0] in tuple(SuccessorMessage):
                yield SuccessorMessage(message[0])
            else:
                self.drop_successor()

    def accept_successor(self, caller: socket.socket, state: Callable[[], TakeoverState]) -> None:
        """Send the state to a caller with the right user id, if there is no successor yet."""
        caller.setblocking(False)
        if self.successor or peer_uid(caller) not in (0, self.starter):
            caller.close()
            return
        self.successor = caller
        enable_sigio(caller)
        try:
            state_to_send = state()
            state_to_send.takeover_socket = self.sock
            for item, number, descriptors in state_to_send.messages():
                socket.send_fds(caller, [HEAD.pack(item, number)], descriptors)
        except OSError:
            self.drop_successor()

    def drop_successor(self) -> None:
        """Close the connection to the successor and continue without one."""
        if self.successor:
            self.successor.close()
            self.successor = None

    def close(self, taken: bool) -> None:
        """Accept no more successors. Later ones connect to the one that has taken over (``taken``).

        If none has, this master stops, and a successor that is still starting must stop too.
        """
        if not taken:
            self.drop_successor()
        self.sock.close()

    def remove(self) -> None:
        """Remove the socket's file; if that fails, the next start replaces it."""
        with suppress(OSError):
            os.unlink(self.path)


class Predecessor:
    """The successor's side: the connection to the running master."""

    def __init__(self, path: str) -> None:
        """Connect to the running master; raises StartupError."""
        self.path = path
        self.is_taken = False
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(STATE_SECONDS)
        try:
            self.connection.connect(path)
        except OSError as error:
            raise StartupError(
                f"takeover: {path}: {error.strerror or error}; "
                "remove takeover if no perdition runs with this pid_file"
            ) from error
        if peer_uid(self.connection) not in (0, os.geteuid()):
            raise StartupError(
                f"takeover: {path}: a process of another user listens there; remove the socket"
            )

    def receive_state(self) -> TakeoverState:
        """Return the state of the running master; raises StartupError."""
        state = TakeoverState()
        item: int = StateItem.VERSION
        try:
            while item != StateItem.LAST:
                head, descriptors, _, _ = socket.recv_fds(self.connection, HEAD.size, BATCH)
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                if not head:
                    raise StartupError(
                        f"takeover: {self.path}: refused: another takeover is in progress, or the "
                        "running instance is stopping; try again later"
                    )
                item, number = HEAD.unpack(head)
                if item != StateItem.LAST:
                    state.add(item, number, descriptors)
        except (OSError, ValueError, struct.error) as error:
            raise StartupError(
                f"takeover: {self.path}: the running instance does not pass its sockets ({error}); "
                "restart perdition instead"
            ) from error
        self.connection.setblocking(False)
        return state

    def replace(self) -> None:
        """Tell the predecessor that this process serves, and get SIGIO when it has exited."""
        self.is_taken = True
        self.send(SuccessorMessage.SERVING)
        enable_sigio(self.connection)

    def send(self, message: SuccessorMessage) -> None:
        """Send a message, if this process has taken over; it is dropped if the other has exited."""
        if self.is_taken:
            with suppress(OSError):
                self.connection.send(bytes([message]))

    def has_exited(self) -> bool:
        """Return whether the predecessor has closed the connection; it sends nothing more."""
        try:
            return not self.connection.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process that connected or, for a listening socket, bound it."""
    size = CREDENTIALS.size
    _, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def enable_sigio(sock: socket.socket) -> None:
    """Send SIGIO to this process whenever a socket has input or is closed by its peer."""
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
