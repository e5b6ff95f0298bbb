"""What the tests of packages do all the time."""

import subprocess
from pathlib import Path

from tests.support.machine import SECONDS, Machine

ROOT = Path(__file__).parents[2]


def run(*command: str) -> str:
    """Run a command that must succeed; gives what it says."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def install(machine: Machine, packages: Path, what: str) -> str:
    """Install a package there, without asking anybody anything."""
    apt = f"apt-get -o Dir::Cache::archives={packages} --no-download --no-install-recommends"
    return machine.does(f"{apt} -o Dpkg::Use-Pty=0 --yes install {what}")


def left_behind(machine: Machine) -> list[str]:
    """The files of perdition's in the system's folders that are there since the machine is."""
    find = "find /etc /run /usr /var -xdev -name '*perdition*' -newer /stamp"
    return machine.does(find).splitlines()
