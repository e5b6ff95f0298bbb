"""The handover: a new master takes the place of a running one, and no client notices.

The running one, the predecessor, listens on a Unix socket beside its pid file, made before it gave
up its privileges. Both sides have the system vouch for who is at the other end: root, or the user
who started both. To a successor that connects it sends copies of all that it listens on, and goes
on. Then the successor says

    TAKEN    it serves from now on: the predecessor accepts nobody any more, its sessions go on
    REOPEN   it was told to read all again: the predecessor opens its log anew, as at SIGHUP
    END      it was told to end: the predecessor ends its sessions as at SIGTERM

and if it leaves without a word, because it cannot start, nothing has happened.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum

from perdition.failure import StartupError
from perdition.net.address import Address
from perdition.process.rights import bind_masked
from perdition.process.tokens import Tokens

VERSION = 1
HEAD = struct.Struct("!BI")
"""An item, and a number: of the version, or of the tokens there are in all; of listeners, 1 if a
service manager has passed them."""
CREDENTIALS = struct.Struct("iII")
"""The process, user and group of SO_PEERCRED."""
BATCH = 64
"""Descriptors in a message: the system allows no more than 253."""
ANSWER_SECONDS = 5.0
"""How long the predecessor may take to send all that it has."""
PRIVATE_UMASK = 0o177


class Item(IntEnum):
    """What the predecessor sends, each with descriptors."""

    VERSION = 0
    HANDOVER = 1
    """The socket that successors connect to."""
    LISTENERS = 2
    SCRAPERS = 3
    TOKENS = 4
    END = 5


class Word(IntEnum):
    """What the successor says."""

    TAKEN = 0
    END = 1
    REOPEN = 2


class Estate:
    """What one master passes on to the next; empty for one that takes nobody's place.

    ``passed`` tells whether the listeners are a service manager's, who has told the first master
    alone.
    """

    def __init__(self) -> None:
        self.handover: socket.socket | None = None
        self.listeners: dict[Address, socket.socket] = {}
        self.scrapers: socket.socket | None = None
        self.tokens: Tokens | None = None
        self.passed = False

    def messages(self) -> Iterator[tuple[Item, int, list[int]]]:
        """Yield each item with its number and its descriptors, as they are sent."""
        yield Item.VERSION, VERSION, []
        if self.handover:
            yield Item.HANDOVER, 0, [self.handover.fileno()]
        descriptors = [sock.fileno() for sock in self.listeners.values()]
        for start in range(0, len(descriptors), BATCH):
            yield Item.LISTENERS, self.passed, descriptors[start : start + BATCH]
        if self.scrapers:
            yield Item.SCRAPERS, 0, [self.scrapers.fileno()]
        if self.tokens:
            yield Item.TOKENS, self.tokens.limit, [self.tokens.source, self.tokens.sink]
        yield Item.END, 0, []

    def add(self, item: int, number: int, descriptors: list[int]) -> None:
        """Take an item in; raises ValueError for one that no version of ours sends."""
        match item, descriptors:
            case Item.VERSION, [] if number == VERSION:
                pass
            case Item.HANDOVER, [descriptor]:
                self.handover = socket.socket(fileno=descriptor)
            case Item.LISTENERS, [*_]:
                sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                self.listeners |= by_address(sockets)
                self.passed = bool(number)
            case Item.SCRAPERS, [descriptor]:
                self.scrapers = socket.socket(fileno=descriptor)
            case Item.TOKENS, [source, sink]:
                self.tokens = Tokens(number, (source, sink))
            case _:
                raise ValueError(f"item {item} with number {number}")

    def close(self) -> None:
        """Let go of what the successor has no use for."""
        for sock in (*self.listeners.values(), *([self.scrapers] if self.scrapers else [])):
            sock.close()
        if self.tokens:
            self.tokens.close()


def by_address(sockets: list[socket.socket]) -> dict[Address, socket.socket]:
    """Return listening sockets by what they listen on."""
    return {Address(sock.family, sock.getsockname()): sock for sock in sockets}


class Handover:
    """The predecessor's side: where a successor comes, and the one that has."""

    def __init__(self, path: str, inherited: socket.socket | None) -> None:
        """Listen there, if our own predecessor has not left us its socket; raises StartupError."""
        self.path = path
        self.starter = os.geteuid()
        self.sock = inherited or self.bind()
        self.successor: socket.socket | None = None

    def bind(self) -> socket.socket:
        """Return a socket that listens, in place of one that a dead process left."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            bind_masked(sock, self.path, PRIVATE_UMASK)
            sock.listen()
        except OSError as error:
            raise StartupError(
                f"{self.path}: {error.strerror or error}; give pid_file another directory"
            ) from error
        return sock

    def sockets(self) -> list[socket.socket]:
        """Return what no other process may keep open."""
        return [self.sock, *([self.successor] if self.successor else [])]

    def wake(self) -> None:
        """Have this process sent SIGIO whenever there is something to hear.

        The successor's call moves that to its own process.
        """
        signal_at_input(self.sock)

    def hear(self, estate: Callable[[], Estate]) -> Iterator[Word]:
        """Let a successor in, to have the estate, and yield what it has to say."""
        with suppress(OSError):  # nobody else is there, or nobody is let in any more
            while True:
                caller, _ = self.sock.accept()
                self.admit(caller, estate)
        while self.successor:
            try:
                said = self.successor.recv(1)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if said and said[0] in tuple(Word):
                yield Word(said[0])
            else:
                self.forget_successor()

    def admit(self, caller: socket.socket, estate: Callable[[], Estate]) -> None:
        """Send a caller all that there is, if it is root and the only one."""
        caller.setblocking(False)
        if self.successor or user_of(caller) not in (0, self.starter):
            caller.close()
            return
        self.successor = caller
        signal_at_input(caller)
        try:
            left = estate()
            left.handover = self.sock
            for item, number, descriptors in left.messages():
                socket.send_fds(caller, [HEAD.pack(item, number)], descriptors)
        except OSError:
            self.forget_successor()

    def forget_successor(self) -> None:
        """Go on as if there had been none."""
        if self.successor:
            self.successor.close()
            self.successor = None

    def retire(self, taken: bool) -> None:
        """Let nobody in any more: the next one comes to the successor, if that has taken over.

        Else this master ends, and a successor that has not come so far is to end as well.
        """
        if not taken:
            self.forget_successor()
        self.sock.close()

    def remove(self) -> None:
        """Take the socket away; one that stays is no hindrance to the next start."""
        with suppress(OSError):
            os.unlink(self.path)


class Predecessor:
    """The successor's side: the line to the master whose place is taken."""

    def __init__(self, path: str) -> None:
        """Connect to it; raises StartupError."""
        self.path = path
        self.is_taken = False
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(ANSWER_SECONDS)
        try:
            self.line.connect(path)
        except OSError as error:
            raise StartupError(
                f"takeover: {path}: {error.strerror or error}; "
                "leave takeover off if no perdition runs with this pid_file"
            ) from error
        if user_of(self.line) not in (0, os.geteuid()):
            raise StartupError(
                f"takeover: {path}: listened to by another user's process; remove it"
            )

    def estate(self) -> Estate:
        """Return what the predecessor has; raises StartupError."""
        found = Estate()
        item: int = Item.VERSION
        try:
            while item != Item.END:
                head, descriptors, _, _ = socket.recv_fds(self.line, HEAD.size, BATCH)
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                if not head:
                    raise StartupError(
                        f"takeover: {self.path}: the running perdition does not hand over, but to "
                        "another one, or it is about to end; try again later"
                    )
                item, number = HEAD.unpack(head)
                if item != Item.END:
                    found.add(item, number, descriptors)
        except (OSError, ValueError, struct.error) as error:
            raise StartupError(
                f"takeover: {self.path}: the running perdition does not hand over ({error}); "
                "restart it instead"
            ) from error
        self.line.setblocking(False)
        return found

    def take_place(self) -> None:
        """Tell it that this process serves, and have this process sent SIGIO when it has ended."""
        self.is_taken = True
        self.say(Word.TAKEN)
        signal_at_input(self.line)

    def check(self) -> None:
        """Raise StartupError if it was told to end meanwhile: so was whoever takes over."""
        if self.has_ended():
            raise StartupError("the running perdition has ended meanwhile")

    def say(self, word: Word) -> None:
        """Tell it something, if its place is taken; one that has ended meanwhile need not know."""
        if self.is_taken:
            with suppress(OSError):
                self.line.send(bytes([word]))

    def has_ended(self) -> bool:
        """Tell whether it has; it says nothing else."""
        try:
            return not self.line.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True


def user_of(sock: socket.socket) -> int:
    """Return the user at the other end when it was made: of a socket that listens, its maker."""
    size = CREDENTIALS.size
    _, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def signal_at_input(sock: socket.socket) -> None:
    """Have this process sent SIGIO whenever a socket has something to read, or is at its end."""
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
