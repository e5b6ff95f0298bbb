"""The line between the helper and those who ask it.

A request has an id, what is wanted, and a body; the answer has the same id, a status, and a body.

    FILE   the number of a file            READY and the file, or FAILED and the reason
    LOGIN  user, password, client address  READY, or FAILED and PAM's number for the reason
    CANCEL the id of a LOGIN whose answer nobody waits for any more; it has none of its own
"""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum

from perdition.failure import StartupError
from perdition.net.loop import READ, Loop, Task, Timer, suspend

HEAD = struct.Struct("!IB")
SIZE = struct.Struct("!I")
MESSAGE_SIZE = 131072
"""Octets in a message: a certificate with its chain and the authorities above it fits well."""
HIGHEST_ID = 0xFFFFFFFF
FIRST_ID = 1
STARTED_ANEW = 0
"""The id of what a helper says first: whatever another one was asked, it will not answer."""
ANSWER_SECONDS = 5.0
"""How long the answer with a file may take."""


class Wanted(IntEnum):
    """What a request asks for."""

    FILE = 0
    LOGIN = 1
    CANCEL = 2


class Status(IntEnum):
    """How a request went."""

    READY = 0
    FAILED = 1


def pack(*fields: bytes) -> bytes:
    """Return fields in a row, each with its size in front."""
    return b"".join(SIZE.pack(len(field)) + field for field in fields)


def unpack(body: bytes) -> Iterator[bytes]:
    """Yield the fields that ``pack`` has put in a row."""
    while body:
        (size,) = SIZE.unpack_from(body)
        end = SIZE.size + size
        yield body[SIZE.size : end]
        body = body[end:]


class Line:
    """The two ends of a connection to the helper, made before the fork."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.ours, self.helpers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def ask_for_file(self, path: str) -> bytes:
        """Return a file, waiting for it; raises StartupError. For who has nothing else to do."""
        self.ours.settimeout(ANSWER_SECONDS)
        body = SIZE.pack(self.files.index(path))
        identifier = STARTED_ANEW
        try:
            self.ours.send(HEAD.pack(FIRST_ID, Wanted.FILE) + body)
            while identifier == STARTED_ANEW:
                message = self.ours.recv(MESSAGE_SIZE)
                if not message:
                    raise StartupError(f"{path}: the helper is gone")
                identifier, status = HEAD.unpack_from(message)
        except OSError as error:
            raise StartupError(f"{path}: the helper does not answer ({error})") from error
        return checked_file(status, message[HEAD.size :])


def checked_file(status: int, body: bytes) -> bytes:
    """Return the file that an answer brings; raises StartupError if it has the reason instead."""
    if status != Status.READY:
        raise StartupError(body.decode(errors="replace"))
    return body


class HelperGone(Exception):
    """The helper cannot be asked, or does not answer."""


class Asker:
    """Asks the helper for the sessions of a loop, any number of questions at once."""

    def __init__(self, loop: Loop, line: Line) -> None:
        self.loop = loop
        self.line = line
        self.ids = 0
        self.waiting: dict[int, Task] = {}
        loop.watch(line.ours.fileno(), READ, self)

    async def file(self, path: str) -> bytes:
        """Return a file; raises StartupError."""
        try:
            body = SIZE.pack(self.line.files.index(path))
            status, answer = await self.ask(Wanted.FILE, body, ANSWER_SECONDS)
        except HelperGone as error:
            raise StartupError(f"{path}: {error}") from error
        return checked_file(status, answer)

    async def login(self, user: bytes, password: bytes, address: bytes, seconds: float) -> int:
        """Return PAM's number for what it says of a password: 0 if it is right.

        Raises HelperGone, also after ``seconds`` (0: never).
        """
        status, answer = await self.ask(Wanted.LOGIN, pack(user, password, address), seconds)
        (code,) = SIZE.unpack(answer)
        return 0 if status == Status.READY else int(code)

    async def ask(self, wanted: Wanted, body: bytes, seconds: float) -> tuple[int, bytes]:
        """Return the status and the body of the helper's answer; raises HelperGone."""
        self.ids = self.ids % HIGHEST_ID + 1
        identifier = self.ids
        try:
            self.line.ours.send(HEAD.pack(identifier, wanted) + body, socket.MSG_DONTWAIT)
        except OSError as error:
            raise HelperGone(f"the helper cannot be asked: {error.strerror}") from error

        def arm(task: Task) -> Callable[[], None]:
            timer: Timer | None = None
            self.waiting[identifier] = task
            if seconds:
                timer = self.loop.call_later(seconds, lambda: self.give_up(identifier))

            def disarm() -> None:
                self.waiting.pop(identifier, None)
                if timer:
                    self.loop.timers.cancel(timer)

            return disarm

        try:
            answer: tuple[int, bytes] = await suspend(arm)
        except BaseException:
            with suppress(OSError):
                self.line.ours.send(HEAD.pack(identifier, Wanted.CANCEL), socket.MSG_DONTWAIT)
            raise
        return answer

    def ready(self, events: int) -> None:
        """Give an answer to whoever asked for it, if that one still waits."""
        try:
            message = self.line.ours.recv(MESSAGE_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self.loop.watch(self.line.ours.fileno(), 0, self)
            for identifier in list(self.waiting):
                self.give_up(identifier)
            return
        identifier, status = HEAD.unpack_from(message)
        if identifier == STARTED_ANEW:
            for waiting in list(self.waiting):
                self.give_up(waiting)
        elif task := self.waiting.get(identifier):
            task.answer((status, message[HEAD.size :]))

    def fail(self) -> None:
        """Go on: who waits for an answer that cannot be read waits no longer than it would."""

    def give_up(self, identifier: int) -> None:
        """Tell whoever waits for an answer that there will be none."""
        if task := self.waiting.get(identifier):
            task.answer(error=HelperGone("the helper does not answer"))
