"""``perdition --lookup``: an administrator's first command when a user cannot log in."""

import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.folders import BIN
from tests.support.map_servers import AuthService
from tests.support.perdition import popmap

USERS = {"joe": "max@north:1143", "ann": "south", "@example.org": "domain"}


def lookup(users: str, *options: str | Path) -> tuple[int, list[str], str]:
    """The exit status, the output lines and the error lines of a lookup."""
    command = [BIN / "perdition.imap4", "-f", "", "--lookup", users, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture
def file(folder: Path) -> Path:
    return popmap(folder / "popmap.db", USERS)


def test_server_of_a_known_user_is_shown(file: Path) -> None:
    assert lookup("joe,ann", "-m", file) == (
        0,
        [
            "joe:",
            '  key "joe": north:1143, user "max"',
            '  logs in at north:1143 as "joe"',
            "ann:",
            '  key "ann": south',
            '  logs in at south:143 as "ann"',
        ],
        "",
    )


def test_user_name_options_apply(file: Path) -> None:
    """The output has each key that was tried, and the name for the real server."""
    options = ("--query_key", r"\u-x,\D\d", "-S", "remote_login", "-p", "10143")
    assert lookup("Bob@example.org", "-m", file, *options) == (
        0,
        [
            "Bob@example.org:",
            '  key "Bob-x": not in the popmap',
            '  key "@example.org": domain',
            '  logs in at domain:10143 as "Bob"',
        ],
        "",
    )
    assert lookup("joe", "-m", file, "-U")[1][-1] == '  logs in at north:1143 as "max"'
    assert lookup("joe@h:12", "-m", file, "-c")[1] == ["joe@h:12:", '  logs in at h:12 as "joe"']


def test_popmap_that_checks_passwords_is_reported(folder: Path) -> None:
    """It gets no password, and does not take that for a wrong one."""
    with AuthService(folder) as service:
        service.load("joe:word//north\n")
        assert lookup("joe", "-M", "http", "-m", f"{service.option()} Auth-Pass") == (
            1,
            [
                "joe:",
                '  key "joe": popmap: Invalid login or password',
                "  cannot log in without a password: the popmap verifies it",
            ],
            "",
        )


def test_unknown_user_is_reported(file: Path) -> None:
    status, lines, _ = lookup("joe,nobody", "-m", file)
    assert status == 1
    assert lines[-3:] == [
        "nobody:",
        '  key "nobody": not in the popmap',
        "  cannot log in: no server for this user",
    ]
    status, lines, _ = lookup("nobody", "-m", file, "-s", "a,b:1143")
    assert status == 0
    assert lines[-1] == '  logs in at a:143 or b:1143 as "nobody"'


def test_unavailable_popmap_is_reported(folder: Path) -> None:
    status, lines, _ = lookup("joe,ann", "-m", folder / "none", "-s", "a")
    assert status == 2
    assert lines[:3] == [
        "joe:",
        f'  key "joe": popmap {folder}/none: No such file or directory',
        "  cannot log in for now: the popmap is unavailable",
    ]
    assert lines[3] == "ann:"


def test_hung_popmap_ends_with_its_timeout() -> None:
    """For a service that accepts and does not answer; threads that wait for it do not delay the
    exit.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        status, lines, _ = lookup("joe", "-M", "http", "-m", url, "--map_timeout", "1")
        assert status == 2
        assert "timed out" in lines[1] or "no answer within map_timeout (1 s)" in lines[1]
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("-M", "none"), "map_library none: unknown kind of popmap"),
        (("-f", "/none"), "/none: No such file or directory"),
        (("--none",), "--none: no such option"),
    ],
)
def test_errors_in_the_options_are_one_line(options: tuple[str, ...], complaint: str) -> None:
    status, lines, said = lookup("joe", *options)
    assert (status, lines) == (2, [])
    assert complaint in said


def test_control_characters_stay_out_of_the_terminal(file: Path) -> None:
    assert lookup("\x1b[2J", "-m", file)[1][:2] == [
        r"\x1b[2J:",
        r'  key "\x1b[2J": not in the popmap',
    ]
