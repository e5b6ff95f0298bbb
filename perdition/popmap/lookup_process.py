"""What the processes have in common that look users up.

Each is told a socket. From that comes the popmap's option and then a question at a time: a key and
the client's connection, with NUL in between. There goes for each a status, and behind it what was
found: a value, or user, server and port with NUL in between. Behind the status of a failure there
may be what is to be said of it.
"""

import os
import select
import signal
import socket
import threading
from contextlib import suppress
from os import fsdecode
from typing import Protocol

from perdition.endpoint import ConnectionEnds
from perdition.popmap.child_process import FAREWELL_SECONDS, FOUND, LONGEST, MARK, STATUS


class Source(Protocol):
    """Where users are looked up."""

    def start(self, option: bytes) -> tuple[int, bytes]:
        """Begin; return a status and what is to be said."""

    def lookup(self, key: bytes, ends: ConnectionEnds) -> tuple[int, bytes]:
        """Return a status, and what was found or is to be said."""

    def end(self) -> None:
        """Let go of what is open."""


def serve(source: Source, descriptor: int) -> None:
    """Answer what comes from a socket until the other side has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; our end is the socket's
    line = socket.socket(fileno=descriptor)
    threading.Thread(target=end_with, args=(line,), daemon=True).start()
    with suppress(BrokenPipeError):  # nobody waits for this answer any more
        status, said = source.start(line.recv(LONGEST).removeprefix(MARK))
        line.send(STATUS.pack(status) + said)
        if status != FOUND:
            return
        while question := line.recv(LONGEST):
            status, found = source.lookup(*parts(question.removeprefix(MARK)))
            line.send(STATUS.pack(status) + found)
    source.end()


def parts(question: bytes) -> tuple[bytes, ConnectionEnds]:
    """Return the parts of a question."""
    key, *connection = question.split(b"\0")
    source, source_port, destination, destination_port = map(fsdecode, connection)
    return key, ConnectionEnds(source, int(source_port), destination, int(destination_port))


def end_with(line: socket.socket) -> None:
    """End, if need be in the middle of a lookup that waits, when the other side has gone."""
    poll = select.poll()
    poll.register(line, select.POLLRDHUP)
    poll.poll()
    threading.Event().wait(FAREWELL_SECONDS)
    os._exit(os.EX_TEMPFAIL)
