"""perdition itself, run from bin/ in the foreground: started, watched and ended."""

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import processes, sandbox
from tests.support.processes import Process
from tests.support.wait import DEADLINE, until

ROOT = Path(__file__).parents[2]
BIN = ROOT / "bin"


class Proxy:
    """One perdition: `Proxy("imap4", folder, "-M", "gdbm", ...)` runs bin/perdition.imap4.

    It listens on a port of its own on 127.0.0.1, reads no configuration file, writes no pidfile
    (unless told which) and logs to a file in *folder*. Used as a context it listens at the
    beginning, and at the end none of its processes is left. It inherits the descriptors that it is
    told to, and standard input. It may make no system call that the systemd unit does not allow.
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
                preexec_fn=sandbox.enter,  # noqa: PLW1509 - it makes system calls only
            )
        try:
            until(self._serves_or_ended, lambda: f"it serves\n{self.evidence()}")
            if self._master.poll() is not None:
                raise AssertionError(f"it ended at once\n{self.evidence()}")
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

    def processes(self) -> list[Process]:
        """The master and all that it started."""
        return processes.of_session(self.pid)

    def workers(self) -> list[Process]:
        """The workers among them."""
        return [process for process in self.processes() if ": worker " in process.title]

    def session_counts(self) -> dict[int, int]:
        """How many sessions each worker has, by its pid, as the titles tell."""
        return {
            worker.pid: int(worker.title.rpartition(", ")[2].split()[0])
            for worker in self.workers()
        }

    def expect_sessions(self, count: int) -> dict[int, int]:
        """Wait until the titles tell of that many sessions in all; gives each worker's."""
        return until(
            lambda: counts if sum((counts := self.session_counts()).values()) == count else None,
            lambda: f"titles with {count} sessions\n{self.evidence()}",
        )

    def terminate(self, deadline: float = DEADLINE) -> int:
        """Ask the master to end; gives its exit status."""
        self._master.terminate()
        return self.wait(deadline)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait for the master's end; gives its exit status."""
        return self._master.wait(deadline)

    def log_lines(self) -> list[str]:
        """What it has logged so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def logged(self, pattern: str) -> list[str]:
        """The log's lines in which the regular expression is found."""
        return [line for line in self.log_lines() if re.search(pattern, line)]

    def wait_for_log(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until *count* lines of the log match, and give them."""
        return until(
            lambda: lines if len(lines := self.logged(pattern)) >= count else None,
            lambda: f"{count} lines of {pattern!r} in the log\n{self.evidence()}",
        )

    def evidence(self) -> str:
        """What there is to know when something went wrong."""
        ended = self._master.poll()
        state = f"runs as {self.processes()}" if ended is None else f"ended with {ended}"
        return "\n".join(
            (f"$ {shlex.join(self.command)}", state, self._output.read_text(), *self.log_lines())
        )

    def _serves_or_ended(self) -> bool:
        if self._master.poll() is not None:
            return True
        return processes.listening(self.port) and len(self.workers()) >= self._wanted_workers()

    def _wanted_workers(self) -> int:
        """How many the command asks for: perdition listens before they are there."""
        given = [value for name, value in pairwise(self.command) if name == "--workers"]
        return int(given[-1]) if given else 1

    def _end(self) -> list[Process]:
        """End the master if it still runs; gives what outlived it, which is ended too."""
        if self._master.poll() is None:
            self._master.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._master.wait(DEADLINE)
        with suppress(AssertionError):
            until(lambda: not self.processes(), "the workers follow their master", deadline=2)
        left = processes.end_session(self.pid)
        self._master.wait()
        return left


def popmap(file: Path, servers: Mapping[str, str]) -> Path:
    """A gdbm map of users and their real servers, made by bin/makegdbm."""
    lines = "".join(f"{user}:{server}\n" for user, server in servers.items())
    subprocess.run([BIN / "makegdbm", file], input=lines, text=True, check=True, timeout=DEADLINE)
    return file
