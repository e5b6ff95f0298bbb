"""The helper: the one process that is left as root, and only where root is needed.

It reads again, for those who asked with a file's number, the files that were named at start; it
takes nothing else from anybody. A request is an id and that number; the answer bears the same id,
a status, and the file or the reason why there is none.
"""

import selectors
import signal
import socket
import struct
from pathlib import Path

from setproctitle import setproctitle

from perdition.failure import StartupError
from perdition.net.loop import READ, Loop
from perdition.net.stream import Stream

REQUEST = struct.Struct("!IH")
ANSWER = struct.Struct("!IB")
READABLE, UNREADABLE = 0, 1
ANSWER_SIZE = 131072
"""Octets in an answer: a certificate with its chain and the authorities above it fits well."""
ANSWER_SECONDS = 5.0
"""How long an answer may take."""


def read_file(path: str) -> bytes:
    """Return a file; raises StartupError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}; give a readable file") from error


class Line:
    """The two ends of a connection to the helper, made before the fork."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.ours, self.helpers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ids = 0

    def request(self, path: str) -> int:
        """Send a request for a file, and return its id; raises OSError."""
        self.ids += 1
        self.ours.send(REQUEST.pack(self.ids, self.files.index(path)))
        return self.ids

    def answer(self, wanted: int) -> bytes | None:
        """Receive an answer: the file, or None for one that another request got; raises OSError.

        Raises StartupError if the helper cannot read the file.
        """
        message = self.ours.recv(ANSWER_SIZE)
        if not message:
            raise BrokenPipeError("the helper is gone")
        identifier, status = ANSWER.unpack_from(message)
        if identifier != wanted:
            return None
        content = message[ANSWER.size :]
        if status == UNREADABLE:
            raise StartupError(content.decode(errors="replace"))
        return content

    def ask(self, path: str) -> bytes:
        """Return a file, waiting for it; raises StartupError."""
        self.ours.settimeout(ANSWER_SECONDS)
        try:
            identifier = self.request(path)
            while (content := self.answer(identifier)) is None:
                pass
        except OSError as error:
            raise StartupError(f"{path}: the helper does not answer ({error})") from error
        return content

    async def ask_on(self, loop: Loop, path: str) -> bytes:
        """Return a file while the loop goes on; raises StartupError."""
        stream = Stream(loop, self.ours, ANSWER_SECONDS)
        try:
            identifier = self.request(path)
            content = None
            while content is None:
                await stream.wait(READ, ANSWER_SECONDS)
                content = self.answer(identifier)
        except OSError as error:
            raise StartupError(f"{path}: the helper does not answer ({error})") from error
        finally:
            stream.detach()
        return content


def serve(name: str, lines: list[Line], lifeline: int) -> None:
    """Answer requests until the master has gone."""
    setproctitle(f"{name}: helper")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    selector.register(lifeline, selectors.EVENT_READ)
    for line in lines:
        selector.register(line.helpers, selectors.EVENT_READ, line)
    while True:
        for key, _ in selector.select():
            if not key.data:
                return
            respond(key.data)


def respond(line: Line) -> None:
    """Answer one request."""
    message = line.helpers.recv(REQUEST.size)
    identifier, number = REQUEST.unpack(message)
    try:
        status, content = READABLE, read_file(line.files[number])
    except (StartupError, IndexError) as error:
        status, content = UNREADABLE, str(error).encode()
    line.helpers.send(ANSWER.pack(identifier, status) + content[: ANSWER_SIZE - ANSWER.size])
