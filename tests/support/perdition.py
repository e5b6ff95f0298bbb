"""perdition itself, run from bin/: started, watched, taken over and ended by tests."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.support import processes, sandbox
from tests.support.folders import BIN
from tests.support.processes import ProcessInfo
from tests.support.real_server import RealServer
from tests.support.wait import DEADLINE, until

_EVIDENCE_LINES = 40
_STOP_POINTS = Path(__file__).with_name("stop_points.py")


def prepare_child() -> None:
    """What a child does before it becomes perdition: enter the sandbox, and have SIGINT's default.

    A shell starts `make test &` with SIGINT ignored, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sandbox.enter()


class PerditionProcess:
    """perdition in the foreground: `PerditionProcess("imap4", folder, "-M", "gdbm", ...)`.

    It listens on a port of its own on 127.0.0.1, reads no configuration file, writes no pid file
    by default and logs to a file in *folder*. As a context it listens at the beginning, and at the
    end none of its processes is left. It inherits *descriptors* and *stdin*. A system call that
    the systemd unit does not allow kills it.
    """

    def __init__(
        self,
        protocol: str,
        folder: Path,
        *options: str | Path,
        pid_file: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.protocol = protocol
        self.name = f"perdition.{protocol}"
        [self.port] = processes.free_ports(1)
        self.address = ("127.0.0.1", self.port)
        self.log = folder / f"{self.name}.{self.port}.log"
        self._stdin = stdin
        self.descriptors = descriptors
        self._output = folder / f"{self.name}.{self.port}.out"
        self.command = [
            str(BIN / self.name),
            "--no_daemon",
            *("-b", self.address[0], "-l", str(self.port)),
            *("--pid_file", str(pid_file or "")),
            *("-f", ""),
            *("-F", str(self.log)),
            *map(str, options),
        ]

    def __enter__(self) -> Self:
        with self._output.open("wb") as output:
            self._master = subprocess.Popen(
                self.command,
                stdin=self._stdin,
                pass_fds=self.descriptors,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=prepare_child,  # noqa: PLW1509 - it makes system calls only
            )
        try:
            until(self._serves_or_exited, lambda: f"it serves\n{self.evidence()}")
            if self._master.poll() is not None:
                raise AssertionError(f"it exited at once\n{self.evidence()}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = self._end()
        if left and error is None:
            raise AssertionError(f"left behind by {self.name}: {left}\n{self.evidence()}")

    @property
    def pid(self) -> int:
        """The master's."""
        return self._master.pid

    def processes(self) -> list[ProcessInfo]:
        """The master and all that it started."""
        return processes.of_session(self.pid)

    def workers(self) -> list[ProcessInfo]:
        """The workers that have set their titles."""
        return [process for process in self.processes() if ": worker " in process.title]

    def session_counts(self) -> dict[int, int]:
        """The number of sessions in each worker's title, by the worker's pid."""
        titles = {worker.pid: worker.title for worker in self.workers()}
        return {
            pid: int(title.rpartition(", ")[2].split()[0]) for pid, title in titles.items() if title
        }

    def expect_sessions(self, count: int) -> dict[int, int]:
        """Wait until the titles show *count* sessions in all; returns each worker's."""
        return until(
            lambda: counts if sum((counts := self.session_counts()).values()) == count else None,
            lambda: f"titles with {count} sessions\n{self.evidence()}",
        )

    def terminate(self, deadline: float = DEADLINE) -> int:
        """Send SIGTERM to the master; returns its exit status."""
        self._master.terminate()
        return self.wait(deadline)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait until the master exits; returns its exit status."""
        return self._master.wait(deadline)

    def expect_end(self) -> None:
        """Wait until the master exits with status 0, and all its processes with it."""
        assert self.wait() == 0, self.evidence()
        until(lambda: not self.processes(), self.evidence)

    def log_lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def logged(self, pattern: str) -> list[str]:
        """The log lines in which the regular expression is found."""
        return [line for line in self.log_lines() if re.search(pattern, line)]

    def wait_for_log(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until *count* log lines match; returns them."""
        return until(
            lambda: lines if len(lines := self.logged(pattern)) >= count else None,
            lambda: f"{count} lines of {pattern!r} in the log\n{self.evidence()}",
        )

    def evidence(self) -> str:
        """Command, processes, output and log, to be shown when a test fails."""
        if not self._output.exists():
            state, output = "not started, or its files are removed", ""
        else:
            ended, output = self._master.poll(), self._output.read_text()
            state = f"runs as {self.processes()}" if ended is None else f"exited with {ended}"
        return "\n".join((f"$ {shlex.join(self.command)}", state, output, *self.log_lines()))

    def _serves_or_exited(self) -> bool:
        if self._master.poll() is not None:
            return True
        return processes.listening(self.port) and len(self.workers()) >= self._wanted_workers()

    def _wanted_workers(self) -> int:
        """The number in the command: perdition listens before its workers run."""
        given = [value for name, value in pairwise(self.command) if name == "--workers"]
        return int(given[-1]) if given else 1

    def _end(self) -> list[str]:
        """Terminate the master if it still runs; returns what outlived it, which is killed."""
        if self._master.poll() is None:
            self._master.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._master.wait(DEADLINE)
        with suppress(AssertionError):
            until(lambda: not self.processes(), "the workers follow their master", deadline=2)
        left = processes.end_session(self.pid)
        self._master.wait()
        return left


class PerditionDaemon(PerditionProcess):
    """perdition that detaches: the command exits at once, and the master goes on.

    It writes a pid file in a folder of its own. The test process has to adopt orphans, as in
    `processes.nothing_left_behind`.
    """

    def __init__(
        self, protocol: str, folder: Path, *options: str | Path, pid_file: Path | None = None
    ) -> None:
        self.pid_file = pid_file or folder / "run" / f"{protocol}.pid"
        super().__init__(protocol, folder, *options, pid_file=self.pid_file)
        self.command.remove("--no_daemon")
        self._error = self._output.with_suffix(".err")
        self.parent = subprocess.CompletedProcess(self.command, -1, "not started", "")
        self._status: int | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        self.launch()
        self._find_master()
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        """As a context, a daemon that was launched already; it is ended like any other."""
        self._find_master()
        with ExitStack() as stack:
            stack.push(self.__exit__)
            yield

    def launch(self) -> subprocess.CompletedProcess[str]:
        """Run the command until it exits; returns its status and output."""
        self.start_command()
        return self.wait_for_command()

    def start_command(self) -> None:
        with self._output.open("w+") as output, self._error.open("w+") as error:
            self.command_process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=error,
                preexec_fn=prepare_child,  # noqa: PLW1509 - it makes system calls only
            )

    def wait_for_command(self) -> subprocess.CompletedProcess[str]:
        """Wait until the command exits; returns its status and output.

        It does not wait until the output is closed: the daemon may still be detaching.
        """
        status = self.command_process.wait(DEADLINE)
        self.parent = subprocess.CompletedProcess(
            self.command, status, self._output.read_text(), self._error.read_text()
        )
        return self.parent

    def expect_refusal(self) -> str:
        """Launch it: it must fail with one line on standard error, which is returned."""
        parent = self.launch()
        assert parent.returncode > 0, self.evidence()
        assert parent.stdout == "", self.evidence()
        [line] = parent.stderr.splitlines()
        assert line.startswith(f"{self.name}: "), line
        return line

    def written_pid(self) -> int:
        """The number in the pid file, 0 if there is none."""
        with suppress(FileNotFoundError, ValueError):
            return int(self.pid_file.read_text())
        return 0

    @property
    def pid(self) -> int:
        """The master's."""
        return self._pid

    def processes(self) -> list[ProcessInfo]:
        """The master and all that it started."""
        return processes.of_session(self._session) if self._pid else []

    def terminate(self, deadline: float = DEADLINE) -> int:
        """Send SIGTERM to the master; returns its exit status."""
        os.kill(self._pid, signal.SIGTERM)
        return self.wait(deadline)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait until the master exits; returns its exit status."""
        if self._status is None:
            self._status = processes.exit_status(self._pid, deadline)
        return self._status

    def evidence(self) -> str:
        """Command, output, processes and the end of the log, to be shown when a test fails."""
        state = f"runs as {self.processes()}" if self._status is None else f"ended: {self._status}"
        return "\n".join(
            (
                f"$ {shlex.join(self.command)}",
                f"the command exited with {self.parent.returncode}",
                *(self.parent.stdout, self.parent.stderr),
                state,
                *self.log_lines()[-_EVIDENCE_LINES:],
            )
        )

    def _find_master(self) -> None:
        """Find the master by its pid file, and wait until it listens."""
        try:
            assert self.parent.returncode == 0, self.evidence()
            self._pid = until(self.written_pid, lambda: f"a pid file\n{self.evidence()}")
            self._session = os.getsid(self._pid)
            until(lambda: processes.listening(self.port), lambda: f"it listens\n{self.evidence()}")
        except BaseException:
            self._end()
            raise

    def _end(self) -> list[str]:
        if not self._pid:
            return []
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
            with suppress(AssertionError, ChildProcessError):
                self.wait()
        with suppress(AssertionError):
            until(lambda: not self.processes(), "", deadline=2)
        return processes.end_session(self._session) if self.processes() else []


AnyPerdition = TypeVar("AnyPerdition", bound=PerditionProcess)


class Perditions:
    """Starts the perditions of a test; they end with *stack*.

    With a *server*, that is the real server of all users. Without, the options have to name one.
    """

    def __init__(self, folder: Path, stack: ExitStack, server: RealServer | None = None) -> None:
        self._folder = folder
        self._stack = stack
        self._server = server
        self._all: list[PerditionProcess] = []

    def server_options(self, protocol: str) -> tuple[str, ...]:
        """The options that make the real server everybody's."""
        return ("-M", "", "-s", self._server.server(protocol)) if self._server else ()

    def start(
        self,
        protocol: str,
        *options: str | Path,
        pid_file: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> PerditionProcess:
        """One in the foreground that listens; *prefix* is a command such as prlimit to run it."""
        proxy = self.new(protocol, *options, pid_file=pid_file)
        proxy.command[:0] = prefix
        return self.enter(proxy)

    def start_daemon(
        self, protocol: str, *options: str | Path, pid_file: Path | None = None
    ) -> PerditionDaemon:
        """One that has detached and listens."""
        return self.enter(self.new_daemon(protocol, *options, pid_file=pid_file))

    def new(
        self, protocol: str, *options: str | Path, pid_file: Path | None = None
    ) -> PerditionProcess:
        """One for the foreground that is not started yet."""
        all_options = (*self.server_options(protocol), *options)
        proxy = PerditionProcess(protocol, self._folder, *all_options, pid_file=pid_file)
        self._all.append(proxy)
        return proxy

    def new_daemon(
        self, protocol: str, *options: str | Path, pid_file: Path | None = None
    ) -> PerditionDaemon:
        """A daemon that is not started yet."""
        all_options = (*self.server_options(protocol), *options)
        daemon = PerditionDaemon(protocol, self._folder, *all_options, pid_file=pid_file)
        self._all.append(daemon)
        return daemon

    def enter(self, proxy: AnyPerdition) -> AnyPerdition:
        """Start one that is not started yet."""
        self._stack.enter_context(proxy)
        return proxy

    def of(self, protocol: str) -> PerditionProcess:
        """The one for that protocol."""
        [proxy] = [proxy for proxy in self._all if proxy.protocol == protocol]
        return proxy

    def evidence(self) -> str:
        return "\n\n".join(proxy.evidence() for proxy in self._all)


class TakeoverChain:
    """perditions on one address, each of which takes over from the one before."""

    def __init__(
        self, perditions: Perditions, protocol: str, *options: str, workers: int = 2
    ) -> None:
        self._perditions = perditions
        self._protocol = protocol
        self._options = ("--workers", str(workers), *options)
        self.all = [perditions.start_daemon(protocol, *self._options)]
        self.first = self.all[0]
        self.takeover_socket = Path(f"{self.first.pid_file}.takeover")

    @property
    def current(self) -> PerditionDaemon:
        """The latest that has taken over."""
        return self.all[-1]

    def new_successor(self, *options: str | Path) -> PerditionDaemon:
        """A successor with further options that is not started yet."""
        known = ("-l", str(self.first.port), *self._options)
        found = self._perditions.new_daemon(
            self._protocol, *known, *options, "--takeover", pid_file=self.first.pid_file
        )
        found.port, found.address = self.first.port, self.first.address
        return found

    def take_over(self, *options: str | Path) -> PerditionDaemon:
        """A successor that has taken over from the current one."""
        found = self._perditions.enter(self.new_successor(*options))
        self.all.append(found)
        return found


@contextmanager
def stopped_at(point: str, daemon: PerditionDaemon) -> Iterator[ProcessInfo]:
    """Run a daemon's command until a process stops at one of `stop_points`; gives that process.

    The process goes on at the end, and then the command exits.
    """
    daemon.command[:0] = [sys.executable, "-I", str(_STOP_POINTS), point]
    daemon.start_command()
    try:
        stopped = until(_stopped_descendant, daemon.evidence)
        try:
            yield stopped
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
    finally:
        daemon.wait_for_command()


def _stopped_descendant() -> ProcessInfo | None:
    for process in processes.descendants(os.getpid()):
        if process.state() == "T":
            return process
    return None


def popmap(file: Path, servers: Mapping[str, str]) -> Path:
    """A gdbm map of users and their real servers, made by bin/makegdbm."""
    lines = "".join(f"{user}:{server}\n" for user, server in servers.items())
    subprocess.run([BIN / "makegdbm", file], input=lines, text=True, check=True, timeout=DEADLINE)
    return file
