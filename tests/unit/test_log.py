"""The log: the format of its lines, escaping, priorities, rotation and facilities."""

import os
import re
import select
import unicodedata
from collections.abc import Callable
from os import fsencode
from pathlib import Path

import pytest

from perdition.endpoint import ConnectionEnds, Security
from perdition.failure import StartupError
from perdition.log import File, Log, Output, Priority, Sink, Syslog, open_sink, printable
from perdition.session_log import LoginRecord, auth_line, close_line, connect_line

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)
LOGIN = LoginRecord(
    authorisation="",
    user="joe",
    server="mx:143",
    protocol="IMAP4",
    client_security=Security.PLAINTEXT,
    server_security=Security.STARTTLS,
    status='"ok"',
)
FAILED = LoginRecord(
    authorisation="ann",
    user="joe",
    server="",
    protocol="POP3S",
    client_security=Security.SSL,
    server_security=Security.PLAINTEXT,
    status='"failed: Re-Authentication Failure"',
    password="secret",
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (connect_line(ENDS), "Connect: 192.0.2.1:4242->192.0.2.9:143"),
        (connect_line(ENDS, 77), "Connect: 192.0.2.1:4242->192.0.2.9:143 inetd_pid=77"),
        (
            auth_line(ENDS, LOGIN),
            (
                "Auth: 192.0.2.1:4242->192.0.2.9:143 client-secure=plaintext "
                'authorisation_id=NONE authentication_id="joe" server="mx:143" '
                'protocol=IMAP4 server-secure=starttls status="ok"'
            ),
        ),
        (
            auth_line(ENDS, FAILED),
            (
                "Auth: 192.0.2.1:4242->192.0.2.9:143 client-secure=ssl "
                'authorisation_id="ann" authentication_id="joe" password="secret" server="" '
                'protocol=POP3S server-secure=plaintext status="failed: Re-Authentication Failure"'
            ),
        ),
        (
            close_line(ENDS, "ann", "joe", (10, 20)),
            (
                "Close: 192.0.2.1:4242->192.0.2.9:143 "
                'authorisation_id="ann" authentication_id="joe" received=10 sent=20'
            ),
        ),
        (
            close_line(ENDS, "", "joe", (10, 20)),
            (
                "Close: 192.0.2.1:4242->192.0.2.9:143 "
                'authorisation_id=NONE authentication_id="joe" received=10 sent=20'
            ),
        ),
        (
            close_line(ENDS, "NONE", "joe", None),
            (
                "Close: 192.0.2.1:4242->192.0.2.9:143 "
                'authorisation_id="NONE" authentication_id="joe"'
            ),
        ),
    ],
)
def test_session_lines_have_the_manuals_format(line: str, expected: str) -> None:
    assert line == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("joe", "joe"),
        ("jöe", "jöe"),
        ("j o e", "j o e"),
        ("j\r\noe", r"j\x0d\x0aoe"),
        ("j\0oe", r"j\x00oe"),
        ('joe" status=ok', r"joe\x22 status=ok"),
        ("j\x1b[31m\x7f", r"j\x1b[31m\x7f"),
        ("j\x85oe", r"j\x85oe"),
        ("j\udcffoe", r"j\xffoe"),
        ("j\u2028o\u2029e", r"j\u2028o\u2029e"),
        ("j\u202eo\u200be\ufeff", r"j\u202eo\u200be\ufeff"),
        ("j\xa0o\u3000e", r"j\xa0o\u3000e"),
        ("j\U000e0001oe", r"j\U000e0001oe"),
    ],
)
def test_names_cannot_leave_their_quotes(text: str, shown: str) -> None:
    assert printable(text) == shown
    lines = [
        close_line(ENDS, text, text, None),
        auth_line(
            ENDS, LoginRecord(text, text, text, "POP3", Security.SSL, Security.SSL, "ok", text)
        ),
    ]
    for line in lines:
        assert line.isprintable()
        assert fsencode(line).decode() == line


def test_separators_and_invisible_characters_are_escaped() -> None:
    for character in map(chr, range(0x110000)):
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert printable(character).isascii()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize(
    ("debug", "quiet", "written"),
    [
        (False, False, ["error", "warning", "notice", "info"]),
        (True, False, ["error", "warning", "notice", "info", "debug"]),
        (False, True, ["error"]),
        (True, True, ["error", "warning", "notice", "info", "debug"]),
    ],
)
def test_debug_overrides_quiet(path: Path, debug: bool, quiet: bool, written: list[str]) -> None:
    log = Log("perdition.pop3", File(str(path)), debug, quiet)
    for write in (log.error, log.warning, log.notice, log.info, log.debug):
        write(write.__name__)

    lines = path.read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == written
    for line in lines:
        assert re.match(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d perdition\.pop3\[\d+\]: ", line)


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nAuth: forged status=ok", "a\0b", "a\x1bb", "a\x85b", "a\u2028b"]
)
def test_entry_is_one_line_whatever_it_contains(path: Path, text: str) -> None:
    Log("perdition", File(str(path))).error(text)
    [line] = path.read_text().split("\n")[:-1]
    assert line.isprintable()


@pytest.mark.parametrize(("text", "shown"), [("jöe", "jöe"), ("j\udcf6e", r"j\xf6e")])
def test_characters_are_kept_and_other_bytes_escaped(path: Path, text: str, shown: str) -> None:
    Log("perdition", File(str(path))).info(text)
    assert path.read_bytes().endswith(f": {shown}\n".encode())


def test_log_is_reopened_after_rotation(path: Path, tmp_path: Path) -> None:
    log = Log("perdition", File(str(path)))
    log.info("before")
    path.rename(tmp_path / "log.1")
    log.reopen()
    log.info("after")

    assert (tmp_path / "log.1").read_text().endswith("before\n")
    assert path.read_text().endswith("after\n")


def test_old_file_is_kept_if_no_new_one_can_be_opened(path: Path, tmp_path: Path) -> None:
    log = Log("perdition", File(str(path)))
    path.rename(tmp_path / "log.1")
    path.mkdir()
    log.reopen()
    log.info("after")
    assert (tmp_path / "log.1").read_text().endswith("after\n")


@pytest.mark.parametrize(
    ("facility", "recognised"),
    [
        ("-", lambda sink: isinstance(sink, Output) and sink.descriptor == 1),
        ("+", lambda sink: isinstance(sink, Output) and sink.descriptor == 2),
        ("mail", lambda sink: isinstance(sink, Syslog) and sink.facility == 2),
        ("LOCAL7", lambda sink: isinstance(sink, Syslog) and sink.facility == 23),
    ],
)
def test_facility_selects_the_sink(facility: str, recognised: Callable[[Sink], bool]) -> None:
    assert recognised(open_sink(facility))


@pytest.mark.parametrize("facility", ["", "post", "/no/such/directory/log", "/"])
def test_unusable_facility_is_reported(facility: str) -> None:
    with pytest.raises(StartupError, match=f"log_facility {facility}: "):
        open_sink(facility)


def test_long_line_on_a_pipe_is_cut_off_but_ends() -> None:
    """The next line begins on its own: a client can make a line as long as its user name."""
    source, sink = os.pipe()
    log = Log("test", Output(sink))
    log.error("x" * 5000)
    log.error("second")
    first, second, rest = os.read(source, 65536).decode().split("\n")
    assert len(first) == select.PIPE_BUF - 1
    assert second.endswith("second")
    assert not rest
    os.close(source)
    os.close(sink)


def test_full_disk_raises_nothing() -> None:
    File("/dev/full").write(Priority.ERROR, "lost")
