"""The exit status of a command line with a mistake."""

import os
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
