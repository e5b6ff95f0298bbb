"""Processes and listening ports, as /proc shows them."""

import ctypes
import os
import random
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.wait import DEADLINE, until

_LISTEN = "0A"
_SET_CHILD_SUBREAPER = 36
_EXIT_SECONDS = 5.0
"""How long processes may take to exit after a test."""
_FIRST_PORT = 10000
_LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_used_ports: set[int] = set()


class ProcessInfo:
    """One process. Every attribute is read from /proc again."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._proc = Path("/proc", str(pid))

    def __repr__(self) -> str:
        return f"<{self.pid} {self.title!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessInfo) and self.pid == other.pid

    def __hash__(self) -> int:
        return self.pid

    @property
    def title(self) -> str:
        """The command line as `ps` shows it; "" once the process has exited."""
        with suppress(FileNotFoundError, ProcessLookupError):
            raw = (self._proc / "cmdline").read_bytes()
            return raw.replace(b"\0", b" ").decode(errors="replace").strip()
        return ""

    def status(self, name: str) -> list[str]:
        """The words of one line of /proc/PID/status."""
        found = re.search(rf"^{name}:(.*)$", (self._proc / "status").read_text(), re.MULTILINE)
        assert found, f"{self} has no {name}"
        return found[1].split()

    @property
    def uid(self) -> int:
        """The real user id; -1 once the process has exited."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return int(self.status("Uid")[0])
        return -1

    def ids(self) -> tuple[set[str], set[str], list[str]]:
        """User ids and group ids (real, effective, saved), and the supplementary groups."""
        return set(self.status("Uid")), set(self.status("Gid")), self.status("Groups")

    @property
    def umask(self) -> int:
        return int(self.status("Umask")[0], 8)

    @property
    def working_directory(self) -> str:
        return str((self._proc / "cwd").readlink())

    def descriptor_target(self, descriptor: int) -> str:
        """The file that a descriptor refers to."""
        return str((self._proc / "fd" / str(descriptor)).readlink())

    def open_files(self) -> set[str]:
        """The files that all descriptors refer to."""
        return {
            str(descriptor.readlink())
            for descriptor in (self._proc / "fd").iterdir()
            if descriptor.is_symlink()
        }

    def has_open(self, file: Path) -> bool:
        return str(file) in self.open_files()

    def sockets(self) -> set[str]:
        return {name for name in self.open_files() if name.startswith("socket:")}

    def inheritable_descriptors(self) -> set[str]:
        """The descriptors without close-on-exec."""
        return {
            info.name
            for info in (self._proc / "fdinfo").iterdir()
            if (found := re.search(r"(?m)^flags:\s*(\d+)", info.read_text()))
            and not int(found[1], 8) & os.O_CLOEXEC
        }

    def core_limits(self) -> list[str]:
        """RLIMIT_CORE: soft and hard limit."""
        return self._limits("Max core file size")

    def descriptor_limits(self) -> list[str]:
        """RLIMIT_NOFILE: soft and hard limit."""
        return self._limits("Max open files")

    def _limits(self, name: str) -> list[str]:
        text = (self._proc / "limits").read_text()
        found = re.search(rf"^{name} +(\S+) +(\S+)", text, re.MULTILINE)
        assert found, text
        return list(found.groups())

    def cpu_seconds(self) -> float:
        """CPU time of the first thread, to the nanosecond."""
        return int((self._proc / "schedstat").read_text().split()[0]) / 1e9

    def memory(self) -> int:
        """Anonymous resident memory in bytes."""
        size, _ = self.status("RssAnon")
        return int(size) << 10

    def parent(self) -> "ProcessInfo":
        return ProcessInfo(int(self.status("PPid")[0]))

    def state(self) -> str:
        """One letter as in `ps`, such as S, T (stopped) or Z (zombie); "" once it is reaped."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return self.status("State")[0]
        return ""

    def is_alive(self) -> bool:
        return self.state() not in ("", "Z", "X")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _stat_fields() -> Iterator[tuple[int, list[str]]]:
    """Each process and the fields of /proc/PID/stat, from the state on."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # A process may exit between any two reads.
            with suppress(FileNotFoundError, ProcessLookupError):
                # The command's name is in parentheses and may itself have blanks and parentheses.
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()


def of_session(session: int) -> list[ProcessInfo]:
    """The processes of a session, in order of pid, without zombies."""
    pids = [
        pid
        for pid, (state, _, _, number, *_) in _stat_fields()
        if state != "Z" and int(number) == session
    ]
    return [ProcessInfo(pid) for pid in sorted(pids)]


def end_session(session: int) -> list[str]:
    """Kill all processes of a session; returns pids and titles of those that were left."""
    left = of_session(session)
    told = [repr(process) for process in left]
    for process in left:
        process.kill()
    until(lambda: not of_session(session), f"end of {told}")
    return told


def descendants(ancestor: int) -> list[ProcessInfo]:
    """Children of a process and their descendants, including zombies."""
    children: dict[int, list[int]] = {}
    for pid, (_, parent, *_) in _stat_fields():
        children.setdefault(int(parent), []).append(pid)
    found, waiting = [], [ancestor]
    while waiting:
        pids = children.get(waiting.pop(), [])
        found += pids
        waiting += pids
    return [ProcessInfo(pid) for pid in found]


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if a process that was started in this context is left at its end; such are killed.

    Orphans become children of this process, so that daemons are seen too.
    """
    earlier = {process.pid for process in descendants(os.getpid())}

    def left_behind() -> list[ProcessInfo]:
        found = [each for each in descendants(os.getpid()) if each.pid not in earlier]
        for each in found:
            with suppress(ChildProcessError):
                os.waitpid(each.pid, os.WNOHANG)
        return [each for each in found if each.is_alive()]

    _set_subreaper(True)
    try:
        yield
        with suppress(AssertionError):
            until(lambda: not left_behind(), "", deadline=_EXIT_SECONDS)
        left = left_behind()
        told = f"left behind: {left}"
        for each in left:
            each.kill()
        until(lambda: not left_behind(), told)
        assert not left, told
    finally:
        _set_subreaper(False)


def _set_subreaper(enable: bool) -> None:
    """See PR_SET_CHILD_SUBREAPER in prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_CHILD_SUBREAPER, int(enable), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def exit_status(pid: int, deadline: float = DEADLINE) -> int:
    """Wait for a child or an adopted orphan; returns its status, negative for a signal."""
    ended: list[int] = []

    def has_exited() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        ended.append(status)
        return bool(found)

    until(has_exited, f"end of {ProcessInfo(pid)}", deadline)
    return os.waitstatus_to_exitcode(ended[-1])


def listening(port: int) -> bool:
    """Whether a process of this machine listens on a TCP port; does not connect to it."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = row.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def refuses_connections(address: tuple[str, int]) -> bool:
    with socket.socket() as sock:
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            return True
    return False


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports that nobody uses at the moment, each returned once.

    They are below those that the kernel assigns to outgoing connections: no connection takes one
    before the server that it is for.
    """
    end = int(_LOCAL_PORTS.read_text().split()[0])
    found: list[int] = []
    for port in random.sample(range(_FIRST_PORT, end), end - _FIRST_PORT):
        if len(found) == count:
            break
        if port not in _used_ports:
            with suppress(OSError), socket.create_server((address, port)):
                found.append(port)
    assert len(found) == count, f"{count} free ports below {end}"
    _used_ports.update(found)
    return found
