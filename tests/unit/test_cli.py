"""The exit status of a command line with a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdition.cli import main

LOOKUP_ERROR = 2


@pytest.fixture(autouse=True)
def no_syslog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("perdition.log.SYSLOG_SOCKET", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--timeout", "soon"], os.EX_USAGE),
        (["--ok_line", "see--lookup", "--timeout", "soon"], os.EX_USAGE),
        (["--lookup", "joe", "--timeout", "soon"], LOOKUP_ERROR),
        (["--lookup=joe", "--timeout", "soon"], LOOKUP_ERROR),
        (["--timeout", "soon", "--lookup", "joe"], LOOKUP_ERROR),
    ],
)
def test_mistake_ends_a_lookup_with_2_and_a_start_with_64(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("perdition", arguments) == status
    assert "timeout 'soon': " in capsys.readouterr().err


def run_in_deleted_directory(
    directory: Path, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run ``perdition`` in a directory that is deleted before it starts."""
    directory.mkdir()
    checkout = str(Path(__file__).parents[2])
    code = (
        f"import os, sys; os.rmdir(os.getcwd()); sys.path.insert(0, {checkout!r}); "
        "from perdition.cli import main; sys.exit(main('perdition', sys.argv[1:]))"
    )
    command = [sys.executable, "-I", "-c", code, *arguments]
    return subprocess.run(
        command, check=False, cwd=directory, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "option"),
    [(["-f", "perdition.conf"], "config_file"), (["-f", "", "-m", "popmap"], "map_library_opt")],
)
def test_relative_path_in_a_deleted_directory_is_a_mistake(
    arguments: list[str], option: str, tmp_path: Path
) -> None:
    done = run_in_deleted_directory(tmp_path / "gone", "--lookup", "joe", *arguments)
    assert done.returncode == LOOKUP_ERROR
    assert option in done.stderr
    assert "absolute path" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_absolute_paths_work_in_a_deleted_directory(tmp_path: Path) -> None:
    arguments = ["--lookup", "joe", "-f", "", "-M", "", "-s", "north"]
    arguments += ["--ssl_cert_file", "/nonexistent"]
    done = run_in_deleted_directory(tmp_path / "gone", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "logs in at north" in done.stdout
