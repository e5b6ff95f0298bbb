"""The packages, built once for all tests, and machines to try them on."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.steps import build, packages_in, run
from tests.support.debian import make_system, own_release
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--release", help="try the .deb on this Debian release, not on our own")
    parser.addoption("--debs", type=Path, help="a folder with our packages, built on that release")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, for another release, what only this system can tell."""
    if config.getoption("--release", None):
        left_out = [item for item in items if item.get_closest_marker("own_system")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def debs(request: pytest.FixtureRequest) -> Iterator[list[Path]]:
    """Our Debian packages, the main one first."""
    if folder := request.config.getoption("--debs", None):
        yield packages_in(folder, "deb")
        return
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
        module = folder / "perdition/__init__.py"
        module.write_text(module.read_text().replace('"3.0.0"', f'"{NEWER}"'))
        run(*git, "init", "--quiet")
        run(*git, "add", "--all")
        run(*git, "commit", "--quiet", "--message=A version to come")
        yield folder


@pytest.fixture(scope="session")
def newer_debs(debs: list[Path]) -> Iterator[list[Path]]:
    """Our Debian packages as a version to come, with nothing new in them."""
    with public_folder() as folder:
        yield [as_newer(deb, folder) for deb in debs]


def as_newer(deb: Path, folder: Path) -> Path:
    """Pack a package once more as the version to come."""
    tree = folder / deb.stem
    run("dpkg-deb", "--raw-extract", str(deb), str(tree))
    for file in (tree / "DEBIAN/control", tree / "usr/share/perdition/perdition/__init__.py"):
        if file.exists():
            file.write_text(file.read_text().replace("3.0.0", NEWER))
    newer = folder / deb.name.replace("3.0.0", NEWER)
    run("dpkg-deb", "--root-owner-group", "--build", str(tree), str(newer))
    return newer


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
def debian(request: pytest.FixtureRequest, debs: list[Path]) -> Iterator[Path]:
    """A Debian in a folder that has never had a perdition, and has little else.

    Whatever perdition 2.2 and ours need is ready to be installed.
    """
    need_root()
    have("mmdebstrap")
    fetch = "apt-get --yes --no-install-recommends --download-only install"
    hooks = (
        f"mkdir $1/ours; cp {' '.join(map(str, debs))} $1/ours",
        f'chroot $1 sh -c "{fetch} {OLD} && {fetch} /ours/*.deb"',
    )
    with public_folder() as folder:
        release = request.config.getoption("--release", None) or own_release()
        make_system(folder / "system", release, ("make", "man-db", "procps", "python3"), hooks)
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
