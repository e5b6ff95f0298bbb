"""What the tests of packages do all the time."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.support.authority import Authority
from tests.support.machine import ROOT, SECONDS, Machine

NAMES = ("pop3", "pop3s", "imap4", "imaps", "managesieve")
"""What all instances are called, behind the dot."""

OF_ALL = "# mine\nbind_address 127.0.0.1\nno_lookup\nconnect_relog 0\n"
WITH_TLS = OF_ALL + "ssl_mode ssl_listen\noutgoing_port "
SITE = {
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/perdition/perdition.conf": OF_ALL,
    "/etc/perdition/perdition.pop3s.conf": f"{WITH_TLS}110\n",
    "/etc/perdition/perdition.imaps.conf": f"{WITH_TLS}143\n",
    "/etc/perdition/popmap": "joe:127.0.0.2\n",
}
"""What a site has: all five instances on one address, and a real server on another."""


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


def build(kind: str, folder: Path, checkout: Path = ROOT) -> list[Path]:
    """Build the packages of a kind, deb or rpm, into a folder; the main one is the first."""
    run(str(checkout / f"packaging/{kind}/build"), str(folder))
    return packages_in(folder, kind)


def packages_in(folder: Path, kind: str) -> list[Path]:
    """The packages of a kind in a folder; the main one is the first."""
    return sorted(folder.glob(f"*.{kind}"), key=lambda path: (len(path.name), path.name))


def bring(machine: Machine, files: Iterable[Path]) -> None:
    """Copy files to a machine's folder /new."""
    for file in files:
        (machine.root / "new").mkdir(exist_ok=True)
        shutil.copy(file, machine.root / "new")


def set_up_site(machine: Machine) -> None:
    """Set a machine up as a site, with its real server."""
    configure(machine)
    users = "--address 127.0.0.2 --ports 110 143 4190 --name north joe:secret ann:secret"
    machine.does(f"{python('tests.support.mailserver', users)} >/dev/null 2>&1 </dev/zero &")


def configure(machine: Machine) -> None:
    """Give a machine a site's configuration, certificate and popmap."""
    for path, text in SITE.items():
        machine.write(path, text)
    authority = Authority(machine.folder.parent)
    certificate = authority.issue()
    machine.write("/authority.pem", authority.file.read_text())
    machine.write("/etc/perdition/perdition.crt.pem", certificate.certificate.read_text())
    machine.write("/etc/perdition/perdition.key.pem", certificate.key.read_text())
    machine.does("chmod 600 /etc/perdition/perdition.key.pem; cd /etc/perdition; make")


def python(module: str, arguments: str = "") -> str:
    """The shell command that runs a module of the tests on a machine."""
    return f"cd {ROOT} && exec {sys.executable} -m {module} {arguments}"


def log_in(machine: Machine, user: str = "joe") -> str:
    """Read a user's mail and scripts over each protocol, with and without TLS."""
    return machine.does(python("tests.packaging.logins", user))


def stay_logged_in(machine: Machine) -> None:
    """Log a client in that stays."""
    machine.does(f"({python('tests.packaging.visitor')}) >/visitor 2>&1 </dev/null &")
    machine.wait_for("grep -q in /visitor")


def fate_of_session(machine: Machine) -> str:
    """How the session of the client that has stayed is now: alive or over."""
    machine.does("touch /leave")
    machine.wait_for("egrep -q 'alive|over' /visitor")
    return machine.does("tail -n 1 /visitor").strip()


def all_run(status: str) -> bool:
    """Whether an init script says of all five instances that they run."""
    return [line.partition(" (")[0] for line in status.splitlines()] == [
        f"perdition.{name} is running" for name in NAMES
    ]
