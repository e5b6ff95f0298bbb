"""Debian systems in folders, made by mmdebstrap."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

MIRROR = os.environ.get("MIRROR", "http://deb.debian.org/debian")
"""Where releases come from that are not this system's."""

SECONDS = 900.0
"""What a system may take, with its packages."""


def own_release() -> str:
    """The name of this system's release; "" if it is no Debian."""
    lines = Path("/etc/os-release").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    return found.get("VERSION_CODENAME", "") if found.get("ID") == "debian" else ""


def make_system(
    folder: Path, release: str, packages: Iterable[str], hooks: Iterable[str] = ()
) -> None:
    """Make a system of a release, with these packages and not much else.

    Hooks are shell commands for the end, in which $1 is the folder. What apt has downloaded stays.
    """
    done = subprocess.run(
        [
            # What it mounts is gone with it, however it ends.
            *("unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"),
            *("--skip=cleanup/apt/lists,cleanup/apt/cache", f"--include={','.join(packages)}"),
            # A mirror of a release in testing may be some days late, which is no matter here.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            *(f"--customize-hook={hook}" for hook in hooks),
            *(release, str(folder), *_sources(release)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"no system of Debian {release}:\n{done.stdout}"


def _sources(release: str) -> list[str]:
    """Where packages come from: for this system's own release, from where it has them itself."""
    if release != own_release():
        return [MIRROR]
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian.*")]
    return [str(file) for file in files if file.exists()]
