"""A server of a popmap: started, made to hang, and ended."""

import os
import pwd
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from tests.support import processes
from tests.support.folders import ROOT
from tests.support.wait import DEADLINE, until


class MapServer(ABC):
    """A server that runs in this context; none of its processes outlives it."""

    kind: ClassVar[str]
    """The value of ``map_library``."""
    programs: ClassVar[tuple[str, ...]]
    account: ClassVar[str] = "root"
    """The user that it runs as, if tests run as root."""
    killed_by: ClassVar[signal.Signals] = signal.SIGKILL
    loose: ClassVar[frozenset[str]] = frozenset()
    """Keys that this server also matches with joe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        [self.port] = processes.free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._output = folder / "output"
        self.certificate = folder / "tls" / "certificate.pem"
        self.key = folder / "tls" / "key.pem"
        self.authority = folder / "tls" / "authority.pem"

    @classmethod
    def missing(cls) -> str:
        """The programs that are not installed, or ""."""
        absent = [name for name in cls.programs if not cls.program(name)]
        return f"not installed: {', '.join(absent)}" if absent else ""

    @classmethod
    def program(cls, name: str) -> str | None:
        """The path of a program."""
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        return shutil.which(name, path=":".join(["/usr/bin:/usr/sbin", *map(str, versions)]))

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def prepare(self) -> None:
        """Create what the server needs before its first start."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def load(self, lines: str) -> None:
        """Replace all users of the map by lines of ``key:value``."""

    @abstractmethod
    def option(self, *, port: int | None = None) -> str:
        """The ``map_library_opt`` for this server, or for a copy on another port."""

    @abstractmethod
    def option_of_two(self, first: int) -> str:
        """One for two servers: that on the port ``first``, and then this one."""

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                **self.as_account(),
            )
        running = self._process
        until(lambda: self.ready() or running.poll() is not None, self.evidence)
        assert running.poll() is None, self.evidence()

    def ready(self) -> bool:
        """Whether it answers."""
        return processes.listening(self.port)

    def stop(self) -> None:
        """Kill the server, even if it hangs, and its children."""
        if not self._process:
            return
        family = self.all_processes()
        self._signal(family, self.killed_by)
        self._signal(family, signal.SIGCONT)
        self._process.wait(DEADLINE)
        self._process = None
        until(lambda: not any(map(alive, family)), lambda: f"end of {family}: {self.evidence()}")

    def restart(self) -> None:
        self.stop()
        self.start()

    def _is_stopped(self) -> bool:
        """Send SIGSTOP to all processes; whether all are stopped.

        A zombie whose parent is stopped is not counted.
        """
        moving = [pid for pid in self.all_processes() if stat(pid)[:1] not in (["T"], ["Z"], [])]
        self._signal(moving, signal.SIGSTOP)
        return not moving

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Make it accept connections and not answer."""
        try:
            until(self._is_stopped, "all of it stops")
            yield
        finally:
            self._signal(self.all_processes(), signal.SIGCONT)

    def all_processes(self) -> list[int]:
        """The server and its descendants, some of which have sessions of their own."""
        assert self._process
        names = (entry.name for entry in Path("/proc").iterdir())
        parents = {int(name): parent_of(int(name)) for name in names if name.isdecimal()}
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    @staticmethod
    def _signal(family: list[int], number: signal.Signals) -> None:
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def evidence(self) -> str:
        """Its output."""
        return f"{self.kind}: {self._output.read_text(errors='replace')[-3000:]}"

    def as_account(self) -> dict[str, Any]:
        """The arguments that make subprocess run a program as the server's account."""
        if self.account == "root" or os.getuid() != 0:
            return {}
        account = pwd.getpwnam(self.account)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def run(self, *command: str, text: str = "") -> str:
        """Run a program to its end; returns its output."""
        done = subprocess.run(
            [self.program(command[0]) or command[0], *command[1:]],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
            cwd=self.folder,
            **self.as_account(),
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
        written: str = done.stdout.decode()
        return written

    def certify(self) -> None:
        """Make a certificate for 127.0.0.1 and its key, by an authority such as many sites have."""
        self.chown_to_account(self.key.parent)
        authority_key = str(self.authority.with_suffix(".key"))
        new = ("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2")
        self.run(
            *(*new, "-subj", "/CN=authority"),
            *("-keyout", authority_key, "-out", str(self.authority)),
        )
        self.run(
            *(*new, "-subj", "/CN=popmap", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-extensions", "v3_req", "-CA", str(self.authority), "-CAkey", authority_key),
            *("-keyout", str(self.key), "-out", str(self.certificate)),
        )

    def chown_to_account(self, path: Path) -> None:
        """Give a folder to the account."""
        path.mkdir(exist_ok=True)
        if account := self.as_account():
            os.chown(path, account["user"], account["group"])


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if there is no such process."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # The command's name is in parentheses and may itself have blanks and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def parent_of(pid: int) -> int:
    """A process's parent; 0 if there is no such process, or it is a zombie."""
    state, parent, *_ = stat(pid) or ["Z", "0"]
    return 0 if state == "Z" else int(parent)


def alive(pid: int) -> bool:
    """Whether a process runs."""
    return bool(parent_of(pid))
