"""The main loop of a lookup process: the child's side of ``child_process``.

The first message on the socket is the popmap's option. Then each request consists of the key and
the addresses and ports of the client's connection, separated by NUL. The answer is a status,
followed by a value, or by user, server and port separated by NUL, or by an error message.
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
from perdition.popmap.child_process import EXIT_SECONDS, FOUND, MAX_MESSAGE, REQUEST_PREFIX, STATUS


class Backend(Protocol):
    """What a lookup process runs."""

    def start(self, option: bytes) -> tuple[int, bytes]:
        """Connect; return a status and an error message."""

    def lookup(self, key: bytes, ends: ConnectionEnds) -> tuple[int, bytes]:
        """Return a status, and the answer or an error message."""

    def close(self) -> None:
        """Disconnect."""


def serve(backend: Backend, descriptor: int) -> None:
    """Answer requests from a socket until the other side closes it."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # sent by the terminal; the end of the socket ends us
    channel = socket.socket(fileno=descriptor)
    threading.Thread(target=exit_after, args=(channel,), daemon=True).start()
    with suppress(BrokenPipeError):  # the parent closed the socket during the lookup
        status, text = backend.start(channel.recv(MAX_MESSAGE).removeprefix(REQUEST_PREFIX))
        channel.send(STATUS.pack(status) + text)
        if status != FOUND:
            return
        while request := channel.recv(MAX_MESSAGE):
            status, found = backend.lookup(*parse(request.removeprefix(REQUEST_PREFIX)))
            channel.send(STATUS.pack(status) + found)
    backend.close()


def parse(request: bytes) -> tuple[bytes, ConnectionEnds]:
    """Return the key and the connection of a request."""
    key, *connection = request.split(b"\0")
    source, source_port, destination, destination_port = map(fsdecode, connection)
    return key, ConnectionEnds(source, int(source_port), destination, int(destination_port))


def exit_after(channel: socket.socket) -> None:
    """Exit when the other side closes the socket, even if a lookup hangs."""
    poll = select.poll()
    poll.register(channel, select.POLLRDHUP)
    poll.poll()
    threading.Event().wait(EXIT_SECONDS)
    os._exit(os.EX_TEMPFAIL)
