"""The packages, built once for all tests, and machines to try them on."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.steps import build, run
from tests.support.folders import public_folder
from tests.support.machine import ROOT, Machine

OLD = " ".join(f"perdition{part}=2.2*" for part in ("", "-ldap", "-mysql", "-odbc", "-postgresql"))
"""Debian's packages of perdition 2.2."""

NEWER = "9.9.9"


def have(*programs: str) -> None:
    """Skip unless programs are there."""
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"not installed: {program}")


@pytest.fixture(scope="session")
def debs() -> Iterator[list[Path]]:
    """Our Debian packages, the main one first."""
    have("dpkg-buildpackage")
    with public_folder() as folder:
        yield build("deb", folder)


@pytest.fixture(scope="session")
def rpms() -> Iterator[list[Path]]:
    """Our RPMs, the main one first."""
    have("rpmbuild")
    with public_folder() as folder:
        yield build("rpm", folder)


@pytest.fixture(scope="session")
def newer_checkout() -> Iterator[Path]:
    """A checkout of a version to come, with nothing new in it."""
    with public_folder() as folder:
        archive = folder / "archive.tar"
        git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=n@localhost"]
        run("git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "archive", "-o", str(archive),
            "HEAD")  # fmt: skip
        run("tar", "-x", "-C", str(folder), "-f", str(archive))
        archive.unlink()
        changelog = folder / "packaging/deb/changelog"
        text = changelog.read_text()
        changelog.write_text(text.replace("(3.0.0)", f"({NEWER})", 1) + "\n" + text)
        module = folder / "perdition/__init__.py"
        module.write_text(module.read_text().replace('"3.0.0"', f'"{NEWER}"'))
        run(*git, "init", "--quiet")
        run(*git, "add", "--all")
        run(*git, "commit", "--quiet", "--message=A version to come")
        yield folder


@pytest.fixture(scope="session")
def newer_debs(newer_checkout: Path) -> Iterator[list[Path]]:
    """Our Debian packages of a version to come."""
    have("dpkg-buildpackage")
    with public_folder() as folder:
        yield build("deb", folder, newer_checkout)


@pytest.fixture(scope="session")
def newer_rpms(newer_checkout: Path) -> Iterator[list[Path]]:
    """Our RPMs of a version to come."""
    have("rpmbuild")
    with public_folder() as folder:
        yield build("rpm", folder, newer_checkout)


def need_root() -> None:
    """Skip unless there can be machines."""
    if os.getuid() != 0:
        pytest.skip("only root can have a machine")


@pytest.fixture(scope="session")
def debian(debs: list[Path]) -> Iterator[Path]:
    """A Debian in a folder that has never had a perdition, and has little else.

    Whatever perdition 2.2 and ours need is ready to be installed.
    """
    need_root()
    have("mmdebstrap")
    fetch = "apt-get --yes --no-install-recommends --download-only install"
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian.*")]
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    with public_folder() as folder:
        run(
            *("mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"),
            *("--skip=cleanup/apt/lists,cleanup/apt/cache", "--include=make,man-db,procps,python3"),
            f"--customize-hook=mkdir $1/ours; cp {' '.join(map(str, debs))} $1/ours",
            f'--customize-hook=chroot $1 sh -c "{fetch} {OLD} && {fetch} /ours/*.deb"',
            *(release["VERSION_CODENAME"], str(folder / "system")),
            *(str(path) for path in sources if path.exists()),
        )
        yield folder / "system"


@pytest.fixture
def fresh(debian: Path, folder: Path) -> Iterator[Machine]:
    """A machine with that Debian."""
    with Machine(folder, debian) as machine:
        booted(machine)
        yield machine


@pytest.fixture
def machine(folder: Path) -> Iterator[Machine]:
    """This machine once more, as if it had never had a perdition."""
    need_root()
    with Machine(folder) as machine:
        booted(machine)
        machine.does("rm -rf /etc/perdition /etc/*/perdition /run/perdition.* && touch /stamp")
        yield machine


def booted(machine: Machine) -> None:
    """Have a machine say what one says that has booted and may start daemons."""
    machine.does("rm -f /usr/sbin/runlevel /usr/sbin/policy-rc.d")
    machine.write("/usr/sbin/runlevel", "#!/bin/sh\necho N 2\n")
    machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n")
    machine.does("chmod +x /usr/sbin/runlevel /usr/sbin/policy-rc.d")
