"""perdition as a daemon: what the command line starts ends at once, and the master goes on."""

import os
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.support import processes, sandbox
from tests.support.family import Member, exit_status
from tests.support.processes import Process
from tests.support.proxy import Proxy
from tests.support.wait import DEADLINE, until

_EVIDENCE_LINES = 40


class Daemon(Proxy):
    """`Daemon("imap4", folder, ...)` is `Proxy("imap4", folder, ...)` that detaches.

    It writes a pid file in a folder of its own. Whoever starts it has to adopt orphans.
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
        self.adopt()
        return self

    def adopt(self) -> None:
        """Find the master that the command has left, and wait until it listens."""
        try:
            assert self.parent.returncode == 0, self.evidence()
            self._pid = until(self.written_pid, lambda: f"a pid file\n{self.evidence()}")
            self._session = os.getsid(self._pid)
            until(self._listens, lambda: f"it listens\n{self.evidence()}")
        except BaseException:
            self._end()
            raise

    def launch(self) -> subprocess.CompletedProcess[str]:
        """Run the command and wait until it comes back; what it said and its status.

        Not until its output is closed: whoever has detached may still be about to.
        """
        with self._output.open("w+") as output, self._error.open("w+") as error:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=error,
                preexec_fn=sandbox.enter,  # noqa: PLW1509 - it makes system calls only
            )
            status = process.wait(DEADLINE)
        self.parent = subprocess.CompletedProcess(
            self.command, status, self._output.read_text(), self._error.read_text()
        )
        return self.parent

    def written_pid(self) -> int:
        """The number in the pid file, 0 if there is none."""
        with suppress(FileNotFoundError, ValueError):
            return int(self.pid_file.read_text())
        return 0

    @property
    def pid(self) -> int:
        """The master's."""
        return self._pid

    def processes(self) -> list[Process]:
        """The master and all that it started."""
        return processes.of_session(self._session) if self._pid else []

    def members(self) -> list[Member]:
        """The same, each to be looked at closely."""
        return [Member(process.pid) for process in self.processes()]

    def terminate(self, deadline: float = DEADLINE) -> int:
        """Ask the master to end; gives its exit status."""
        os.kill(self._pid, signal.SIGTERM)
        return self.wait(deadline)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait for the master's end; gives its exit status."""
        if self._status is None:
            self._status = exit_status(self._pid, deadline)
        return self._status

    def evidence(self) -> str:
        """What there is to know when something went wrong."""
        state = f"runs as {self.processes()}" if self._status is None else f"ended: {self._status}"
        return "\n".join(
            (
                f"$ {shlex.join(self.command)}",
                f"came back with {self.parent.returncode}",
                *(self.parent.stdout, self.parent.stderr),
                state,
                *self.log_lines()[-_EVIDENCE_LINES:],
            )
        )

    def _listens(self) -> bool:
        return processes.listening(self.port)

    def _end(self) -> list[Process]:
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
