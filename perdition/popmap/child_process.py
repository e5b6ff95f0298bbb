"""Popmaps that run in processes of their own, whose crash or waiting hurts no session."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from os import fsdecode, fsencode
from typing import NamedTuple

import perdition
from perdition.endpoint import Endpoint
from perdition.failure import MapUnavailable
from perdition.options.table import Options
from perdition.popmap import Destination, Query
from perdition.popmap.server import ServerMap

MODULES = os.path.dirname(perdition.__path__[0])
RUN_MODULE = f"""
import runpy, sys
sys.path.insert(0, {MODULES!r})
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
PYTHON = (sys.executable, "-IB", "-c", RUN_MODULE)
"""Runs a module of ours, told by the first argument, also where Python does not know of them."""
LONGEST = 65_536
MARK = b"?"
"""What a question begins with: an empty datagram looks like the socket's end."""
STATUS = struct.Struct("i")

FOUND = 0
UNREACHABLE = -1
NO_SUCH_KEY = -2
FAULT = -3
"""What an answer begins with, as in perditiondb(5); any other number is a fault, too."""

RENEWAL_SECONDS = 30.0
"""How long a process that cannot reach its database is asked again rather than replaced: starting
one costs as much as thousands of lookups."""
FAREWELL_SECONDS = 5.0
"""How long a process may take to end before it is killed."""


class Child(NamedTuple):
    """A process that looks users up, and the socket that leads there: a datagram a question.

    ``old_at`` is when (by the monotonic clock) it might be worth while to begin again with another.
    """

    process: "subprocess.Popen[bytes]"
    line: socket.socket
    old_at: float


class ProcessMap(ServerMap[Child]):
    """A map whose processes are the connections that are kept.

    ``command`` runs the module whose ``main`` is told the descriptor of a socket as its last
    argument; see ``lookup_process``. There comes ``option`` first.
    """

    errors = (OSError,)

    def __init__(self, name: str, command: tuple[str, ...], option: str, options: Options) -> None:
        super().__init__([name], options)
        self.command = command
        self.option = option

    def connect(self, server: str) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [*self.command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        child = Child(process, ours, time.monotonic() + RENEWAL_SECONDS)
        ours.settimeout(self.patience)
        try:
            # Not among the arguments, where ps would show it.
            status, said = self.exchange(child, fsencode(self.option))
            if status != FOUND:
                raise OSError(fsdecode(said))
        except BaseException:
            self.disconnect(child)
            raise
        return child

    def ask(self, connection: Child, query: Query) -> Destination | None:
        if "\0" in query.key:
            return None  # what is written in C would take what is before it for the key
        question = "\0".join([query.key, *map(str, query.ends)])
        status, said = self.exchange(connection, fsencode(question))
        if status == NO_SUCH_KEY:
            return None
        if status == UNREACHABLE:
            what = fsdecode(said) or f"status {status}: the database cannot be reached"
            if time.monotonic() < connection.old_at:  # another one would fare no better
                raise MapUnavailable(f"popmap: {self.servers[0]}: {what}")
            raise OSError(what)
        if status != FOUND:
            raise OSError(fsdecode(said) or f"status {status}: an error")
        value, *three = map(fsdecode, said.split(b"\0"))
        if three:
            user, server, port = value, *three
            return Destination(Endpoint(server, port), user)
        return Destination.parse(value, self.delimiter)

    def exchange(self, child: Child, question: bytes) -> tuple[int, bytes]:
        """Return the status and the octets that answer a question; raises OSError."""
        child.line.send(MARK + question)
        answer = child.line.recv(LONGEST)
        if not answer:
            raise OSError(f"its process {describe_exit(wait_or_kill(child.process))}")
        return STATUS.unpack_from(answer)[0], answer[STATUS.size :]

    def disconnect(self, connection: Child) -> None:
        """Let the process end, without waiting for that here."""
        connection.line.close()
        threading.Thread(target=wait_or_kill, args=(connection.process,)).start()


def wait_or_kill(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process's end, and kill it if it takes too long; return its status."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(FAREWELL_SECONDS)
    process.kill()
    return process.wait()


def describe_exit(code: int) -> str:
    """Say how a process ended."""
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
