"""A machine of a test's own to install things on: this one once more, or another system."""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.support.wait import DEADLINE

ROOT = Path(__file__).parents[2]

_SET_UP = """
set -e
mount -t tmpfs machine "$1"
cd "$1"
mkdir upper work root
mount -t overlay -o "lowerdir=$2,upperdir=upper,workdir=work" machine root
mount -t proc proc root/proc
mount --rbind /dev root/dev
mkdir -p "root/$3"
mount --bind "$3" "root/$3"
ip link set lo up
exec "$4" -c "$5"
"""

_REAP = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""
"""What the first process does: those that others have left end as they do anywhere."""

SECONDS = 120.0
"""What a package manager may take."""


class Machine:
    """Has the files of a system; what it changes, and its processes, are gone when it is left.

    The system is this one, or another in a folder; this checkout is there, too. The machine has a
    network of its own, which leads nowhere. Only root can have one.
    """

    namespaces: ClassVar[tuple[str, ...]] = ("--mount", "--pid", "--net")
    """What it has of its own."""
    seconds: ClassVar[float] = SECONDS
    """What a script there may take."""

    def __init__(self, folder: Path, system: Path = Path("/")) -> None:
        self.folder = folder / "machine"
        self.folder.mkdir()
        self.system = system
        self.said: list[str] = []

    def __enter__(self) -> Self:
        self._unshare = subprocess.Popen(
            ["unshare", *self.namespaces, "--fork", "--kill-child", *self.first()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._unshare.stdout
        line = self._unshare.stdout.readline()
        assert line == "ready\n", line + self._unshare.stdout.read()
        pid = self._unshare.pid
        self._first = Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unshare.kill()
        with self._unshare:
            pass

    def first(self) -> list[str]:
        """What becomes its first process, after it has said that it is ready."""
        where = [str(path) for path in (self.folder, self.system, ROOT)]
        return ["sh", "-c", _SET_UP, "sh", *where, sys.executable, _REAP]

    def command(self, *command: str) -> list[str]:
        """What to run here so that a command runs there."""
        inside = [*self.namespaces, f"--root={self.root}", f"--wd={self.root}"]
        return ["nsenter", f"--target={self._first}", *inside, *command]

    @property
    def root(self) -> Path:
        """Where its files can be reached from here."""
        return Path(f"/proc/{self._first}/root{self.folder}/root")

    def tries(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script; what it says on either channel is in stdout."""
        done = subprocess.run(
            self.command("sh", "-c", script),
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C",
                "HOME": os.environ.get("HOME", "/"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=self.seconds,
        )
        self.said.append(f"$ {script}\n{done.stdout}exits with {done.returncode}")
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file there, in a folder that may be new."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def does(self, script: str) -> str:
        """Run a shell script that must succeed; gives what it says."""
        done = self.tries(script)
        assert done.returncode == 0, self.said[-1]
        return done.stdout

    def wait_for(self, script: str) -> None:
        """Wait until a shell script succeeds."""
        self.does(
            f"for _ in $(seq {int(10 * DEADLINE)}); do {script} && exit; sleep 0.1; done; exit 1"
        )

    def evidence(self) -> str:
        """What was done there, and said."""
        return "\n".join(self.said)
