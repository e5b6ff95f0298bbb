"""A popmap that a site has made: a C library as perditiondb(5) describes them.

The library runs in processes of its own, so that neither its crash nor its waiting hurts a session.
"""

import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from os import fsdecode, fsencode
from typing import NamedTuple

from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.options import Options
from perdition.popmap import Destination, Query
from perdition.popmap.server import ServerMap

COMMAND = (sys.executable, "-I", "-m", "perdition.popmap.c_library_process")
LONGEST = 65_536
MARK = b"?"
"""What a question begins with: an empty datagram looks like the socket's end."""
STATUS = struct.Struct("i")

FOUND = 0
UNREACHABLE = -1
NO_SUCH_KEY = -2
FAULT = -3
"""What a library's functions return; any other number is a fault, too."""

FAREWELL_SECONDS = 5.0
"""How long a library may take to end before its process is killed."""


def open_map(path: str, options: Options) -> "CLibraryMap":
    """Open a site's library."""
    return CLibraryMap(path, options)


class Child(NamedTuple):
    """A process with the library in it, and the socket that leads there: a datagram a question."""

    process: "subprocess.Popen[bytes]"
    line: socket.socket


class CLibraryMap(ServerMap[Child]):
    """A site's library; its processes are the connections that are kept."""

    errors = (OSError,)

    def __init__(self, path: str, options: Options) -> None:
        super().__init__([path], options)
        self.option = options.map_library_opt
        self.time_limit = options.map_timeout

    def check(self) -> None:
        """Have a process of its own load the library and look for what it must have."""
        path = self.servers[0]
        try:
            checked = subprocess.run(
                [*COMMAND, path],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.time_limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StartupError(f"map_library {path}: loading it takes too long; mend it") from None
        if code := checked.returncode:
            said = checked.stderr.decode(errors="replace").strip().splitlines()
            fate = said[-1] if said and code > 0 else how_it_ended(code)
            raise StartupError(f"map_library {path}: {fate}; give a library as in perditiondb(5)")

    def connect(self, server: str) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [*COMMAND, server, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        child = Child(process, ours)
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
            return None  # the library would take what is before it for the key
        status, said = self.exchange(connection, fsencode(query.key))
        if status == NO_SUCH_KEY:
            return None
        if status != FOUND:
            what = "its database cannot be reached" if status == UNREACHABLE else "an error"
            raise OSError(f"the library says {status}: {what}")
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
            raise OSError(f"the library's process {how_it_ended(see_off(child.process))}")
        return STATUS.unpack_from(answer)[0], answer[STATUS.size :]

    def disconnect(self, connection: Child) -> None:
        """Let the library end, without waiting for that here."""
        connection.line.close()
        threading.Thread(target=see_off, args=(connection.process,)).start()


def see_off(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process's end, and kill it if it takes too long; return its status."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(FAREWELL_SECONDS)
    process.kill()
    return process.wait()


def how_it_ended(code: int) -> str:
    """Say how a process ended."""
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
