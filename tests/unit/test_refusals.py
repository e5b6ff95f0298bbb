"""A real server's refusal: whose fault it is, and no password of it in log or reply."""

from base64 import b64encode
from os import fsdecode

import pytest

from perdition.failure import Failure, Rejected, ServerRefused
from perdition.protocol import sasl
from perdition.protocol.dialogue import Credentials
from perdition.protocol.refusals import LOGGED_LENGTH, refused

HEAD = b"-ERR [IN-USE]"
CREDENTIALS = Credentials("joe", b'hunter2-"Knight"')


def failure(
    text: bytes, credentials: Credentials = CREDENTIALS, code: bytes = b"IN-USE"
) -> Failure:
    return refused(HEAD + b" " + text, HEAD, code, credentials)


def test_status_shows_the_reply() -> None:
    assert failure(b"mailbox locked").status == "server refused: -ERR [IN-USE] mailbox locked"
    assert failure(b"mailbox locked", code=b"").status == Rejected.status


def test_status_is_bounded() -> None:
    assert len(failure(b"x" * 10_000).status) <= LOGGED_LENGTH + len(ServerRefused.status) + 2


@pytest.mark.parametrize(
    "echo",
    [
        pytest.param(b'hunter2-"Knight"', id="plain"),
        pytest.param(b'hunter2-\\"Knight\\"', id="quoted"),
        pytest.param(b"HUNTER2-KN", id="upper case, in part"),
        pytest.param(sasl.encode_plain(CREDENTIALS), id="base64"),
        pytest.param(b64encode(CREDENTIALS.password), id="password in base64"),
    ],
)
@pytest.mark.parametrize("code", [b"IN-USE", b"", b"PRIVACYREQUIRED"])
def test_repeated_password_is_removed(echo: bytes, code: bytes) -> None:
    found = failure(b"for " + echo, code=code)
    shown = f"{found.status} {found.detail} {fsdecode(found.server_line)}"
    assert "unter" not in shown.lower()
    assert fsdecode(echo) not in shown
    if code == b"IN-USE":
        assert found.server_line == b"-ERR [IN-USE] ***"


def test_password_in_the_code_is_removed() -> None:
    line = b"NO [REFERRAL imap://joe;hunter2-Knight@other/] there"
    found = refused(line, line[:-6], b"REFERRAL", CREDENTIALS, b"* OK hunter2-Knight\\r\\n")
    assert (found.server_line, found.untagged) == (b"NO ***", b"")


def test_short_password_is_only_found_as_a_word() -> None:
    short = Credentials("joe", b"cause")
    assert failure(b"because", short).server_line.endswith(b"because")
    assert failure(b"the password cause", short).server_line.endswith(b"***")
    short = Credentials("joe", b"pass")
    assert failure(b"for cGFzcw==", short).server_line.endswith(b"***")
    assert failure(b"for cGFzcwo", short).server_line.endswith(b"cGFzcwo")
