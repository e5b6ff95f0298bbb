"""The Debian package, from its build to its purge, and over Debian's own perdition 2.2."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.packaging.steps import ROOT, install, left_behind, run
from tests.support.machine import Machine

PROTOCOLS = ("pop3", "imap4", "managesieve")
PORTS = {"pop3": 2110, "imap4": 2143, "managesieve": 2190}
"""Those of the real server."""

SETTINGS = """
RUN_PERDITION=yes
POP3=yes
POP3_FLAGS="--outgoing_port 2110"
IMAP4=yes
IMAP4_FLAGS="--outgoing_port 2143"
MANAGESIEVE=yes
MANAGESIEVE_FLAGS="--outgoing_port 2190"
POP3S=no
IMAP4S=no
"""
OWN_FILES = {
    "/etc/default/perdition": SETTINGS,
    "/etc/perdition/perdition.conf": "# mine\nconnect_relog 0\nquiet\n",
    "/etc/perdition/popmap": "joe:127.0.0.1\n",
    "/etc/pam.d/perdition": "auth required pam_deny.so\n",
}


def log_in(machine: Machine) -> str:
    """Read joe's mail over each protocol."""
    return machine.does(f"cd {ROOT} && {sys.executable} -m tests.packaging.logins")


def test_build_is_reproducible(deb: Path, folder: Path) -> None:
    run(str(ROOT / "packaging/deb/build"), str(folder))
    assert (folder / deb.name).read_bytes() == deb.read_bytes()


def test_lintian_says_nothing(deb: Path) -> None:
    if not shutil.which("lintian"):
        pytest.skip("lintian is not installed")
    said = run("lintian", "--allow-root", "--pedantic", str(deb))
    assert not said


def test_fresh_install_until_purge(machine: Machine, deb: Path) -> None:
    install(machine, deb.parent, str(deb))
    assert "perdition.managesieve runs" in machine.does("/etc/init.d/perdition status")
    assert "PERDITION(8)" in machine.does("man perdition.imaps")
    assert machine.does("perdition.imap4 --help").startswith("Usage: perdition.imap4 ")
    machine.does("cd /etc/perdition && make && makegdbm -u popmap.gdbm.db | grep joe:")
    assert "is started" in machine.does("/etc/init.d/perdition restart")
    machine.does("apt-get --yes remove perdition")
    assert "perdition." not in machine.does("ps -e -o args"), "it still runs"
    assert "mine" not in machine.does("cat /etc/perdition/perdition.conf")
    machine.does("rm /etc/perdition/popmap.gdbm.db; apt-get --yes purge perdition")
    assert not left_behind(machine)


def test_takes_over_from_perdition_22(machine: Machine, deb: Path) -> None:
    install(machine, deb.parent, "perdition=2.2*")
    machine.does("/etc/init.d/perdition stop")
    for path, text in OWN_FILES.items():
        machine.does(f"cat > {path} <<'END'\n{text}END")
    machine.does("cd /etc/perdition && makegdbm popmap.gdbm.db < popmap")
    machine.does("/etc/init.d/perdition start")
    machine.wait_for("[ $(ps -e -o args | grep -c '^perdition.*: daemon') = 3 ]")
    users = f"--address 127.0.0.1 --ports {' '.join(map(str, PORTS.values()))} joe:secret"
    server = f"cd {ROOT} && sleep 600 | {sys.executable} -m tests.support.mailserver --name n"
    machine.does(f"({server} {users}) >/dev/null 2>&1 &")
    files = [*OWN_FILES, "/etc/perdition/popmap.gdbm.db"]
    before = machine.does(f"md5sum {' '.join(files)}")

    install(machine, deb.parent, str(deb))

    assert machine.does(f"md5sum {' '.join(files)}") == before
    status = machine.does("/etc/init.d/perdition status").splitlines()
    assert [line.partition(" (")[0] for line in status] == [
        f"perdition.{protocol} runs" for protocol in PROTOCOLS
    ]
    assert ": daemon" not in machine.does("ps -e -o args"), "the old one still runs"
    assert "Subject" in log_in(machine)
    machine.does("/etc/init.d/perdition reload")
    machine.does("/etc/init.d/perdition restart")
    assert "Subject" in log_in(machine)
    machine.does("apt-get --yes purge perdition && rm -r /etc/perdition")
    assert "perdition." not in machine.does("ps -e -o args"), "it still runs"
