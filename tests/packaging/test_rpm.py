"""The RPM, from its build to its removal. Debian's packages stand in for what it requires."""

import shutil
import subprocess
from pathlib import Path

import pytest

from perdition.options.configuration import NAMES
from tests.packaging.steps import build, run
from tests.support.machine import ROOT, Machine

SUSE = 'rc_reset() { :; }\nrc_status() { result=$?; }\nrc_exit() { exit "$result"; }\n'
"""What /etc/rc.status has of SUSE's own."""


@pytest.fixture(scope="session")
def rpm() -> str:
    """The rpm command for a system without RPMs of its own.

    Debian's wants to be told that this is meant up to version 4.18, and has no such option later.
    """
    known = subprocess.run(["rpm", "--force-debian", "--version"], capture_output=True, check=False)
    return f"rpm {'' if known.returncode else '--force-debian '}--nodeps --nosignature"


OLD_SPEC = r"""
Name: perdition
Version: 2.2
Release: 1
Summary: stands in for perdition 2.2
License: none
BuildArch: noarch
%description
It has an init script, and settings that somebody has made.
%install
mkdir -p %{buildroot}/etc/init.d %{buildroot}/etc/rc3.d %{buildroot}/etc/sysconfig
ln -s ../init.d/perdition %{buildroot}/etc/rc3.d/S80perdition
printf '#!/bin/sh\necho "$1" >>/run/old\n' >%{buildroot}/etc/init.d/perdition
chmod +x %{buildroot}/etc/init.d/perdition
echo RUN_PERDITION=no >%{buildroot}/etc/sysconfig/perdition
%files
/etc/init.d/perdition
/etc/rc3.d/S80perdition
%config(noreplace) /etc/sysconfig/perdition
"""


def test_build_is_reproducible(rpms: list[Path], folder: Path) -> None:
    again = build("rpm", folder)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in rpms]


def test_rpmlint_says_nothing(rpms: list[Path]) -> None:
    if not shutil.which("rpmlint"):
        pytest.skip("rpmlint is not installed")
    said = run("rpmlint", "-c", str(ROOT / "packaging/rpm/rpmlint.toml"), *map(str, rpms))
    assert "0 errors, 0 warnings" in said, said


def test_has_all_names_and_pages(rpms: list[Path]) -> None:
    files = run("rpm", "-qlp", str(rpms[0])).splitlines()
    for name in ("perdition", *NAMES):
        assert f"/usr/sbin/{name}" in files
        assert any(file.startswith(f"/usr/share/man/man8/{name}.8") for file in files)
    configuration = run("rpm", "-qcp", str(rpms[0])).splitlines()
    assert "/etc/sysconfig/perdition" in configuration
    assert "/etc/perdition/perdition.conf" in configuration


def left_behind(machine: Machine) -> list[str]:
    """The files of perdition's in the system's folders that are there since the machine is."""
    find = "find /etc /run /usr /var -xdev -name '*perdition*' -newer /stamp"
    return machine.does(find).splitlines()


def test_takes_over_from_perdition_22(
    machine: Machine, rpm: str, rpms: list[Path], folder: Path
) -> None:
    spec = folder / "old.spec"
    spec.write_text(OLD_SPEC)
    run("rpmbuild", "-bb", "--quiet", "--define", f"_topdir {folder}/old", str(spec))
    machine.does(f"{rpm} --install {folder}/old/RPMS/noarch/*.rpm")
    settings = "RUN_PERDITION=yes\nPOP3=yes\nPOP3S=no\nIMAP4=on\nIMAP4S=no\nMANAGESIEVE=no\n"
    machine.does(f"printf '{settings}' >/etc/sysconfig/perdition")

    machine.does(f"{rpm} --upgrade {rpms[0]}")

    assert machine.does("cat /run/old") == "stop\n"
    assert machine.does("cat /etc/sysconfig/perdition") == settings.replace("\\n", "\n")
    status = machine.does("/etc/init.d/perdition status").splitlines()
    assert [line.partition(" (")[0] for line in status] == [
        "perdition.pop3 is running",
        "perdition.imap4 is running",
    ]


def test_install_until_removal(machine: Machine, rpm: str, rpms: list[Path]) -> None:
    machine.does(f"{rpm} --install {rpms[0]}")
    assert not machine.does("rpm --verify --nodeps perdition")
    assert "perdition.pop3 is not running" in machine.tries("/etc/init.d/perdition status").stdout

    assert "perdition.pop3 started (process" in machine.does("/etc/init.d/perdition start")
    machine.does(f"cat > /etc/rc.status <<'END'\n{SUSE}END")
    assert "perdition.imap4 is running" in machine.does(f"{ROOT}/initscripts/suse status")
    assert "perdition.imap4 restarted (process" in machine.does("/etc/init.d/perdition condrestart")
    assert "perdition.managesieve stopped" in machine.does(f"{ROOT}/initscripts/suse stop")
    assert machine.tries(f"{ROOT}/initscripts/suse status").returncode == 3

    machine.does("/etc/init.d/perdition start; rm /etc/rc.status")
    assert not machine.does("rpm --verify --nodeps perdition"), "running it has changed it"
    machine.does(f"{rpm} --erase perdition")
    assert "perdition." not in machine.does("ps -e -o args"), "it still runs"
    assert not left_behind(machine)


def test_upgrade_of_ours(
    machine: Machine, rpm: str, rpms: list[Path], newer_rpms: list[Path]
) -> None:
    machine.does(f"{rpm} --install {' '.join(map(str, rpms))}")
    machine.does("/etc/init.d/perdition start")
    before = machine.does("cat /run/perdition.*/*.pid")
    machine.does(f"{rpm} --upgrade {' '.join(map(str, newer_rpms))}")
    assert "perdition.imap4 is running" in machine.does("/etc/init.d/perdition status")
    assert not set(before.split()) & set(machine.does("cat /run/perdition.*/*.pid").split())
