"""The packages, built once for all tests, and machines to try them on."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.steps import ROOT, run
from tests.support.folders import public_folder
from tests.support.machine import Machine


@pytest.fixture(scope="session")
def deb() -> Iterator[Path]:
    """Our Debian package, in a folder with Debian's of all that it and perdition 2.2 need."""
    if not shutil.which("dpkg-buildpackage"):
        pytest.skip("this is no Debian with tools to build packages")
    with public_folder() as folder:
        run(str(ROOT / "packaging/deb/build"), str(folder))
        [ours] = folder.glob("*.deb")
        (folder / "partial").mkdir()
        for wanted in ("perdition", str(ours)):
            fetch = ["apt-get", "install", "--yes", "--download-only", "--no-install-recommends"]
            run(*fetch, "-o", f"Dir::Cache::archives={folder}", wanted)
        yield ours


@pytest.fixture(scope="session")
def rpm() -> Iterator[Path]:
    """Our RPM."""
    if not shutil.which("rpmbuild"):
        pytest.skip("rpmbuild is not installed")
    with public_folder() as folder:
        run(str(ROOT / "packaging/rpm/build"), str(folder))
        [ours] = folder.glob("*.rpm")
        yield ours


@pytest.fixture
def machine(folder: Path) -> Iterator[Machine]:
    """A machine that has never had a perdition."""
    if os.getuid() != 0:
        pytest.skip("only root can have a machine")
    with Machine(folder) as machine:
        machine.does(  # what runlevel says on a machine that has booted
            r"rm /sbin/runlevel; printf '#!/bin/sh\necho N 2\n' >/sbin/runlevel;"
            "chmod +x /sbin/runlevel"
        )
        machine.does(
            "rm -rf /etc/perdition /etc/*/perdition /run/perdition.* /usr/sbin/policy-rc.d"
            " && touch /stamp"
        )
        yield machine
