"""podman for a test, with its storage, networks and processes; needs root."""

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.wait import DEADLINE

_SET_UP = """
set -e
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/netns /run/containers
mount -t tmpfs netns /run/netns
mount -t tmpfs containers /run/containers
ip link set lo up
echo ready
exec cat
"""
"""crun supports no mixture of both versions of control groups, which some systems have."""

_CONFIGURATION = """
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_config_dir = "{folder}/networks"
"""
"""No limits but small ones, because a test may itself run in a container."""

_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""

SECONDS = 900.0
"""Enough to build an image on a busy machine."""


class ContainerHost:
    """A host for containers: namespaces of mounts, processes and network, and a storage.

    The network leads nowhere, except for commands that ``build`` runs: they use the system's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output: list[str] = []
        (folder / "containers.conf").write_text(_CONFIGURATION.format(folder=folder))
        (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
        self.environment = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def __enter__(self) -> Self:
        namespaces = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._unshare = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", _SET_UP],
            stdin=subprocess.PIPE,
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
        self._unshare.communicate(timeout=DEADLINE)

    def build(self, *command: str | Path, directory: Path) -> str:
        """Run a command that needs the system's network; it must succeed."""
        return self._run(["--mount", "--pid"], command, directory)

    def run(self, *command: str | Path, directory: Path = Path("/")) -> str:
        """Run a command, which must succeed; returns its standard output."""
        return self._run(["--mount", "--pid", "--net"], command, directory)

    def succeeds(self, *command: str) -> bool:
        try:
            self.run(*command)
        except AssertionError:
            return False
        return True

    def _run(self, namespaces: list[str], command: tuple[str | Path, ...], directory: Path) -> str:
        done = subprocess.run(
            ["nsenter", *namespaces, f"--target={self._first}", f"--wd={directory}", *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        self.output.append(f"$ {command}\n{done.stdout}{done.stderr}exits with {done.returncode}")
        assert done.returncode == 0, self.output[-1]
        return done.stdout

    def evidence(self) -> str:
        return "\n".join(self.output)
