"""The family of processes that a test starts: none gets out of sight, whatever detaches."""

import ctypes
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.wait import until

_SET_CHILD_SUBREAPER = 36
_GRACE = 5.0


class Member:
    """One process, as /proc tells of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._entry = Path("/proc", str(pid))

    def __repr__(self) -> str:
        return f"<{self.pid} {self.title!r}>"

    @property
    def title(self) -> str:
        """What `ps` would call it, "" for one that has ended."""
        with suppress(FileNotFoundError, ProcessLookupError):
            raw = (self._entry / "cmdline").read_bytes()
            return raw.replace(b"\0", b" ").decode(errors="replace").strip()
        return ""

    def status(self, name: str) -> list[str]:
        """The words of a line of its status."""
        found = re.search(rf"^{name}:(.*)$", (self._entry / "status").read_text(), re.MULTILINE)
        assert found, f"{self} has no {name}"
        return found[1].split()

    def ids(self) -> tuple[set[str], set[str], list[str]]:
        """Its user ids and its group ids (real, effective, saved), and its further groups."""
        return set(self.status("Uid")), set(self.status("Gid")), self.status("Groups")

    @property
    def umask(self) -> int:
        """What it keeps others from doing with its files."""
        return int(self.status("Umask")[0], 8)

    @property
    def folder(self) -> str:
        """Its working directory."""
        return str((self._entry / "cwd").readlink())

    def leads_to(self, descriptor: int) -> str:
        """What one of its descriptors leads to."""
        return str((self._entry / "fd" / str(descriptor)).readlink())

    def open_files(self) -> set[str]:
        """What its descriptors lead to, by the names that the system has for that."""
        return {
            str(descriptor.readlink())
            for descriptor in (self._entry / "fd").iterdir()
            if descriptor.is_symlink()
        }

    def bequeathed(self) -> set[str]:
        """Which descriptors a program would find open that it runs."""
        return {
            info.name
            for info in (self._entry / "fdinfo").iterdir()
            if (found := re.search(r"(?m)^flags:\s*(\d+)", info.read_text()))
            and not int(found[1], 8) & os.O_CLOEXEC
        }

    def sockets(self) -> set[str]:
        """Its sockets among them."""
        return {name for name in self.open_files() if name.startswith("socket:")}

    def holds(self, file: Path) -> bool:
        """Whether one of its descriptors leads to that file."""
        return str(file) in self.open_files()

    def core_limits(self) -> list[str]:
        """How big a core it may leave: soft and hard limit."""
        return self._limits("Max core file size")

    def descriptor_limits(self) -> list[str]:
        """How many descriptors it may have: soft and hard limit."""
        return self._limits("Max open files")

    def _limits(self, name: str) -> list[str]:
        text = (self._entry / "limits").read_text()
        found = re.search(rf"^{name} +(\S+) +(\S+)", text, re.MULTILINE)
        assert found, text
        return list(found.groups())

    def cpu_seconds(self) -> float:
        """The time that its first thread has had a processor for, to the nanosecond."""
        return int((self._entry / "schedstat").read_text().split()[0]) / 1e9

    def alive(self) -> bool:
        """Whether it has not ended."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return self.status("State")[0] not in ("Z", "X")
        return False

    def kill(self) -> None:
        """End it, whatever it does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def descendants(ancestor: int) -> list[Member]:
    """All that a process has started, and what those have started; zombies too."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [ancestor]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return [Member(pid) for pid in found]


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """While in here, whoever detaches becomes this process's child: its end can be awaited."""
    _become_reaper(True)
    try:
        yield
    finally:
        _become_reaper(False)


def _become_reaper(whether: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Complain of any process that was started in here and is there at the end; it is ended."""
    earlier = {member.pid for member in descendants(os.getpid())}

    def newcomers() -> list[Member]:
        found = [each for each in descendants(os.getpid()) if each.pid not in earlier]
        for each in found:
            with suppress(ChildProcessError):
                os.waitpid(each.pid, os.WNOHANG)
        return [each for each in found if each.alive()]

    with adopting_orphans():
        yield
        with suppress(AssertionError):
            until(lambda: not newcomers(), "", deadline=_GRACE)
        left = newcomers()
        told = f"left behind: {left}"
        for each in left:
            each.kill()
        until(lambda: not newcomers(), f"end of {left}")
        assert not left, told


def exit_status(pid: int, deadline: float) -> int:
    """Wait for the end of a child or an adopted one; its status, negative for a signal."""
    ended: list[int] = []

    def look() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        ended.append(status)
        return bool(found)

    until(look, f"end of {Member(pid)}", deadline)
    return os.waitstatus_to_exitcode(ended[-1])
