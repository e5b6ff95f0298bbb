"""Looking at processes and sockets as /proc shows them."""

import os
import re
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.wait import until

_LISTEN = "0A"


class Process(NamedTuple):
    """A process, what `ps` would call it, and the number of the account that it runs as."""

    pid: int
    title: str
    uid: int


def of_session(session: int) -> list[Process]:
    """The living processes of a session, oldest first. Zombies have ended: they do not count."""
    found = []
    for entry in Path("/proc").iterdir():
        # A process may end between any two looks at it.
        with suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdecimal() and _session_of(entry) == session:
                found.append(_process(entry))
    return sorted(found)


def _session_of(entry: Path) -> int | None:
    """The session of a process in /proc, None for a zombie."""
    # The command's name is in parentheses and may itself have blanks and parentheses.
    state, _, _, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
    return None if state == "Z" else int(session)


def _process(entry: Path) -> Process:
    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    uids = re.search(r"^Uid:\s+(\d+)", (entry / "status").read_text(), re.MULTILINE)
    assert uids
    return Process(int(entry.name), title, int(uids[1]))


def memory(pid: int) -> int:
    """The octets of memory that a process has for itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert resident, status
    return int(resident[1]) << 10


def end_session(session: int) -> list[Process]:
    """End whatever is left of a session, and tell what that was."""
    left = of_session(session)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    until(lambda: not of_session(session), f"end of {left}")
    return left


def listening(port: int) -> bool:
    """Whether somebody on this machine listens on that port; found without connecting to it."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = row.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """That many different ports that nobody has at the moment."""
    sockets = [socket.create_server((address, 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
