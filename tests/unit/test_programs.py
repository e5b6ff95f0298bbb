"""The programs: each name of bin/, also as pip installs it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from perdition import __version__
from tests.support.folders import BIN, ROOT
from tests.support.wait import DEADLINE

PROGRAMS = sorted(path.name for path in BIN.iterdir())


def output(*command: str | Path) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert not done.stderr
    return done.stdout


def test_pip_installs_all_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(project["scripts"]) == PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_installed_by_pip_it_is_the_program_of_its_name(name: str) -> None:
    installed = Path(sys.executable).with_name(name)
    assert output(installed, "--help").lower().startswith(f"usage: {name} ")


@pytest.mark.parametrize("name", PROGRAMS)
def test_version(name: str) -> None:
    assert output(BIN / name, "--version") == f"{name} {__version__}\n"


def test_a_module_without_a_name_is_perdition() -> None:
    assert output(sys.executable, "-m", "perdition", "--help").startswith("Usage: perdition ")
