"""What holds in every protocol: both dialogues joined, and what the log may show."""

from base64 import b64encode
from os import fsdecode

import pytest

from perdition.failure import ConnectedToItself, Failure, Rejected
from perdition.protocol import SERVICES
from perdition.protocol.base import Protocol
from perdition.protocol.dialogue import Accepted, Credentials, StartTLSPolicy, Terms
from tests.unit.talk import Talk, drive, join

POP3, IMAP4, SIEVE = (SERVICES[name].protocol for name in ("POP3", "IMAP4", "MANAGESIEVE"))
OURS, THEIRS = "proxy.example", "real.example"

CAPABILITIES = [
    pytest.param(POP3, "UIDL.USER", id="pop3"),
    pytest.param(IMAP4, "IMAP4REV1", id="imap4"),
    pytest.param(IMAP4, "IMAP4REV1 LITERAL+", id="imap4 literal+"),
    pytest.param(IMAP4, "IMAP4REV1 LITERAL-", id="imap4 literal-"),
    pytest.param(SIEVE, '"SASL" "PLAIN"', id="managesieve"),
]
every_server = pytest.mark.parametrize(("protocol", "capability"), CAPABILITIES)


def meet(
    protocol: Protocol,
    server: Terms,
    credentials: Credentials,
    upgrade: StartTLSPolicy = StartTLSPolicy.NEVER,
) -> tuple[Talk[Accepted], Talk[Credentials | None]]:
    """Have our login talk to our own server's side."""
    ours = Talk(protocol.login(credentials, protocol.own_greeting(OURS), upgrade))
    theirs = Talk(protocol.client(server, server._replace(starttls=False, login_disabled=False)))
    ours.hear(protocol.greeting(THEIRS, server))
    join(ours, theirs)
    return ours, theirs


@every_server
@pytest.mark.parametrize(
    ("user", "password"),
    [
        pytest.param(b"joe", b"secret", id="plain"),
        pytest.param(b"joe@example.com", b" two  blanks ", id="blanks"),
        pytest.param(b"joe", b"", id="empty password"),
        pytest.param(b'"joe\\"', b'\\"\\\\""', id="quotes"),
        pytest.param(b"{3}", b"{3+}", id="braces"),
        pytest.param(b"j\xf6e\x80", b"\xff\xfe", id="8-bit"),
        pytest.param(b"joe", bytes(set(range(256)) - set(b"\0\r\n")), id="all octets"),
        pytest.param(b"joe", b"x" * 4000, id="long"),
    ],
)
def test_credentials_arrive_octet_by_octet(
    protocol: Protocol, capability: str, user: bytes, password: bytes
) -> None:
    ours, theirs = meet(protocol, Terms(capability), Credentials(fsdecode(user), password))

    arrived = theirs.outcome
    assert arrived
    assert (arrived.user, arrived.password) == (fsdecode(user), password)

    ours.hear(protocol.welcome(arrived, Accepted(b""), "Welcome"))
    assert b"Welcome" in ours.outcome.line


@every_server
def test_refusals_are_understood(protocol: Protocol, capability: str) -> None:
    ours, theirs = meet(protocol, Terms(capability), Credentials("joe", b"secret"))
    assert theirs.outcome

    with pytest.raises(Rejected):
        ours.hear(protocol.refusal(theirs.outcome, Rejected(), verbatim=False))


@every_server
def test_tls_before_the_login(protocol: Protocol, capability: str) -> None:
    server = Terms(capability, starttls=True, login_disabled=True)
    ours, theirs = meet(protocol, server, Credentials("joe", b"secret"), StartTLSPolicy.REQUIRED)

    assert (ours.upgrades, theirs.upgrades) == (1, 1)
    assert theirs.outcome
    assert theirs.outcome.password == b"secret"


@pytest.mark.parametrize("starttls", [False, True])
@pytest.mark.parametrize("upgrade", StartTLSPolicy)
@every_server
def test_connection_to_ourselves_is_noticed(
    protocol: Protocol, capability: str, starttls: bool, upgrade: StartTLSPolicy
) -> None:
    login = Talk(protocol.login(Credentials("joe", b""), protocol.own_greeting(OURS), upgrade))
    with pytest.raises(ConnectedToItself):
        login.hear(protocol.greeting(OURS, Terms(capability, starttls)))


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(
    ("protocol", "heard"),
    [
        (POP3, b"CAPA\r\nUSER joe\r\nPASS secret\r\nSTAT\r\n"),
        (IMAP4, b'a NOOP\r\nb LOGIN {3+}\r\njoe "secret"\r\nc SELECT INBOX\r\n'),
        (SIEVE, b'NOOP {1+}\r\nx\r\nAUTHENTICATE "PLAIN" {16+}\r\nAGpvZQBzZWNyZXQ=\r\nNOOP\r\n'),
    ],
)
def test_pieces_do_not_matter(protocol: Protocol, heard: bytes, size: int) -> None:
    whole = drive(protocol.client(Terms(""), Terms("")), heard)
    pieces = Talk(protocol.client(Terms(""), Terms("")))
    for start in range(0, len(heard), size):
        pieces.hear(heard[start : start + size])

    assert pieces.outcome == whole.outcome
    assert (pieces.said, pieces.unread) == (whole.said, whole.unread)


SECRET = b"hunter2-Kn1ght"
MESSAGE = b64encode(b"\0joe\0" + SECRET)
MESSAGE_START = MESSAGE[:24]


def leaks(text: bytes | str) -> bool:
    """Whether somebody who reads a text learns the password."""
    octets = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
    return SECRET in octets or MESSAGE_START in octets


@pytest.mark.parametrize(
    ("protocol", "heard"),
    [
        (POP3, b"USER joe\r\nPASS %b\r\n"),
        (POP3, b"USER joe\r\npass %b\r\n"),
        (POP3, b"PASS %b\r\n"),
        (POP3, b" PASS %b\r\n"),
        (POP3, b"PASS\t%b\r\n"),
        (POP3, b"USER joe\r\nPASS %b\0\r\n"),
        (POP3, b"AUTH PLAIN " + MESSAGE + b"\r\n"),
        (IMAP4, b"a LOGIN joe %b\r\n"),
        (IMAP4, b'a login "joe" "%b"\r\n'),
        (IMAP4, b"a LOGIN joe {14}\r\n%b\r\n"),
        (IMAP4, b"a LOGIN {3+}\r\njoe %b\r\n"),
        (IMAP4, b"a LOGIN {3+}\r\njoe {14+}\r\n%b\r\n"),
        (IMAP4, b"a LOGIN joe {15+}\r\n%b\0\r\n"),
        (IMAP4, b"a  LOGIN joe %b\r\n"),
        (IMAP4, b" a LOGIN joe %b\r\n"),
        (IMAP4, b"a\tLOGIN joe %b\r\n"),
        (IMAP4, b"LOGIN joe %b\r\n"),
        (IMAP4, b"a LOGIN  joe {14+}\r\n%b\r\n"),
        (IMAP4, b'a LOGIN "joe {14+}\r\n%b\r\n'),
        (IMAP4, b"a AUTHENTICATE PLAIN " + MESSAGE + b"\r\n"),
        (IMAP4, b"a AUTHENTICATE PLAIN\r\n" + MESSAGE + b"\r\n"),
        (SIEVE, b'AUTHENTICATE "PLAIN" "' + MESSAGE + b'"\r\n'),
        (SIEVE, b'AUTHENTICATE "PLAIN" {28+}\r\n' + MESSAGE + b"\r\n"),
        (SIEVE, b'AUTHENTICATE {5+}\r\nPLAIN "' + MESSAGE + b'"\r\n'),
        (SIEVE, b'AUTHENTICATE "PLAIN"\r\n"' + MESSAGE + b'"\r\n'),
        (SIEVE, b'AUTHENTICATE "PLAIN"\r\n{28+}\r\n' + MESSAGE + b"\r\n"),
        (SIEVE, b'AUTHENTICATE "PLAIN"\r\n' + MESSAGE + b"\r\n"),
        (SIEVE, b'AUTHENTICATE "PLAIN" "' + MESSAGE + b'" "more"\r\n'),
        (SIEVE, b' AUTHENTICATE "PLAIN" "' + MESSAGE + b'"\r\n'),
        (SIEVE, b'AUTHENTICATE\t"PLAIN" "' + MESSAGE + b'"\r\n'),
        (SIEVE, b'AUTHENTICATE "LOGIN"\r\n"' + MESSAGE + b'"\r\n'),
        (SIEVE, b'AUTHENTICATE  "PLAIN" {28+}\r\n' + MESSAGE + b"\r\n"),
    ],
)
def test_no_password_of_a_client_is_shown(protocol: Protocol, heard: bytes) -> None:
    heard = heard.replace(b"%b", SECRET)
    assert leaks(heard)

    talk = drive(protocol.client(Terms(""), Terms("")), heard)

    assert not [line for line in talk.noted if leaks(line)]


def fail(
    protocol: Protocol, capability: str, password: bytes, answer: bytes
) -> tuple[Talk[Accepted], str]:
    """Have a real server answer a password with that, and then for ever; gives the failure too."""
    credentials = Credentials("joe", password)
    talk = Talk(protocol.login(credentials, protocol.own_greeting(OURS), StartTLSPolicy.NEVER))
    try:
        talk.hear(protocol.greeting(THEIRS, Terms(capability)))
        while not leaks(talk.said):
            talk.hear(b"+OK go on\r\n")
        talk.hear((answer or talk.said) * 2000)
    except Failure as failure:
        return talk, f"{failure!r} {failure.detail}"
    return talk, ""


@pytest.mark.parametrize("extra", [b"", b"\xff", b"\0", b"\r\n"])
@pytest.mark.parametrize(
    "answer", [b"garbage", b"* BYE", b'BYE "bye"', b"-ERR no", b"NO", b"perdition NO no", b"\0"]
)
@every_server
def test_no_password_for_a_real_server_is_shown(
    protocol: Protocol, capability: str, answer: bytes, extra: bytes
) -> None:
    talk, failure = fail(protocol, capability, SECRET + extra, answer + b"\r\n")

    assert failure
    assert not leaks(failure)
    assert not [line for line in talk.noted if leaks(line)]


@every_server
def test_password_that_a_real_server_echoes_is_in_no_failure(
    protocol: Protocol, capability: str
) -> None:
    _, failure = fail(protocol, capability, SECRET, answer=b"")

    assert failure
    assert not leaks(failure)


def test_credentials_do_not_show_their_password() -> None:
    assert not leaks(repr(Credentials("joe", SECRET)))
