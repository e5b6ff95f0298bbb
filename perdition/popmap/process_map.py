"""Popmaps in child processes: calls that crash or hang affect no session."""

import os
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
from perdition.exit_status import describe_status
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
"""Runs the module named by the first argument, even if perdition is not on Python's path."""
MAX_MESSAGE = 65_536
REQUEST_PREFIX = b"?"
"""Precedes each request, because an empty message would look like end of file."""
STATUS = struct.Struct("i")

FOUND = 0
UNREACHABLE = -1
NO_SUCH_KEY = -2
FAULT = -3
"""The status of an answer, as in perditiondb(5). Any other number is an error, like FAULT."""

REPLACE_SECONDS = 30.0
"""The age from which a process that cannot reach its database is replaced. Starting one costs as
much as thousands of lookups."""
PROCESS_EXIT_SECONDS = 5.0
"""The time that a process has to exit before it is killed."""


class Child(NamedTuple):
    """A lookup process and the socket to it, which carries one request per message.

    After ``replace_after`` (monotonic clock) the process is replaced if it cannot reach its
    database.
    """

    process: "subprocess.Popen[bytes]"
    channel: socket.socket
    replace_after: float


class ProcessMap(ServerMap[Child]):
    """A map whose kept connections are child processes.

    ``command`` runs the child; the number of its socket's descriptor is appended. The first
    message on the socket is ``option``; see ``lookup_process``.
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
        child = Child(process, ours, time.monotonic() + REPLACE_SECONDS)
        ours.settimeout(self.server_timeout)
        try:
            # The option may contain a password, which ps would show in the arguments.
            status, answer = self.exchange(child, fsencode(self.option))
            if status != FOUND:
                raise OSError(fsdecode(answer))
        except BaseException:
            self.disconnect(child)
            raise
        return child

    def ask(self, connection: Child, query: Query) -> Destination | None:
        if "\0" in query.key:
            return None  # C code would look up the part before the NUL
        request = "\0".join([query.key, *map(str, query.ends)])
        status, answer = self.exchange(connection, fsencode(request))
        if status == NO_SUCH_KEY:
            return None
        if status == UNREACHABLE:
            reason = fsdecode(answer) or f"status {status}: cannot reach the database"
            if time.monotonic() < connection.replace_after:  # a new process would not help
                raise MapUnavailable(f"popmap: {self.servers[0]}: {reason}")
            raise OSError(reason)
        if status != FOUND:
            raise OSError(fsdecode(answer) or f"status {status}")
        value, *three = map(fsdecode, answer.split(b"\0"))
        if three:
            user, server, port = value, *three
            return Destination(Endpoint(server, port), user)
        return Destination.parse(value, self.delimiter)

    def exchange(self, child: Child, request: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the content of the answer. Raises OSError."""
        child.channel.send(REQUEST_PREFIX + request)
        answer = child.channel.recv(MAX_MESSAGE)
        if not answer:
            raise OSError(f"the lookup process {describe_status(wait_or_kill(child.process))}")
        return STATUS.unpack_from(answer)[0], answer[STATUS.size :]

    def disconnect(self, connection: Child) -> None:
        """Let the process exit; a thread waits for it."""
        connection.channel.close()
        threading.Thread(target=wait_or_kill, args=(connection.process,)).start()


def wait_or_kill(process: "subprocess.Popen[bytes]") -> int:
    """Wait until a process exits, kill it after PROCESS_EXIT_SECONDS; return its status."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(PROCESS_EXIT_SECONDS)
    process.kill()
    return process.wait()
