"""What holds in every protocol.

Limits, STARTTLS, our login at our own server, and no password in logs and failures.
"""

from base64 import b64encode
from os import fsdecode

import pytest

from perdition.failure import ConnectedToItself, Failure, Rejected
from perdition.protocol import SERVICES
from perdition.protocol.base import Protocol
from perdition.protocol.dialogue import Accepted, Credentials, LoginOffer, StartTLSPolicy
from tests.unit.scripted_dialogue import DialogueStarter, DialogueUnderTest, relay

POP3, IMAP4, SIEVE = (SERVICES[name].protocol for name in ("POP3", "IMAP4", "MANAGESIEVE"))
OURS, THEIRS = "proxy.example", "real.example"
JOE = Credentials("joe", b"secret")
NOTHING = LoginOffer("")
STARTTLS = LoginOffer("", starttls=True)

CAPABILITIES = [
    pytest.param(POP3, "UIDL.USER", id="pop3"),
    pytest.param(IMAP4, "IMAP4REV1", id="imap4"),
    pytest.param(IMAP4, "IMAP4REV1 LITERAL+", id="imap4 literal+"),
    pytest.param(IMAP4, "IMAP4REV1 LITERAL-", id="imap4 literal-"),
    pytest.param(SIEVE, '"SASL" "PLAIN"', id="managesieve"),
]
every_server = pytest.mark.parametrize(("protocol", "capability"), CAPABILITIES)


@pytest.mark.parametrize(
    ("protocol", "notice"),
    [
        (POP3, b""),
        (IMAP4, b"* BYE too many failed logins\r\n"),
        (SIEVE, b'BYE "too many failed logins"\r\n'),
    ],
    ids=["pop3", "imap4", "managesieve"],
)
def test_client_is_told_that_its_connection_is_closed(protocol: Protocol, notice: bytes) -> None:
    assert protocol.closing_notice("too many failed logins") == notice


def log_in_at_ourselves(
    start_dialogue: DialogueStarter,
    protocol: Protocol,
    server: LoginOffer,
    credentials: Credentials,
    start_tls: StartTLSPolicy = StartTLSPolicy.NEVER,
) -> tuple[DialogueUnderTest[Accepted], DialogueUnderTest[Credentials | None]]:
    """Connect our login dialogue to our client dialogue, which plays the real server."""
    secured = server._replace(starttls=False, login_disabled=False)
    login = start_dialogue(
        protocol.server_dialogue(credentials, protocol.own_greeting(OURS), start_tls)
    )
    client = start_dialogue(protocol.client_dialogue(server, secured))
    login.receive(protocol.greeting(THEIRS, server))
    relay(login, client)
    return login, client


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
        pytest.param(b"joe", bytes(set(range(0x20, 256)) - {0x7F}), id="all bytes"),
        pytest.param(b"joe", b"x" * 4000, id="long"),
    ],
)
def test_credentials_arrive_unchanged(
    start_dialogue: DialogueStarter,
    protocol: Protocol,
    capability: str,
    user: bytes,
    password: bytes,
) -> None:
    credentials = Credentials(fsdecode(user), password)
    login, client = log_in_at_ourselves(
        start_dialogue, protocol, LoginOffer(capability), credentials
    )

    arrived = client.outcome
    assert arrived
    assert (arrived.user, arrived.password) == (fsdecode(user), password)

    login.receive(protocol.welcome(arrived, Accepted(b"", capability=b"IMAP4rev1"), "Welcome"))
    assert b"Welcome" in login.outcome.line


@pytest.mark.parametrize(("protocol", "capability"), CAPABILITIES[1:])
def test_control_characters_arrive_where_the_protocol_can_carry_them(
    start_dialogue: DialogueStarter, protocol: Protocol, capability: str
) -> None:
    credentials = Credentials("j\toe", bytes({*range(0x20), 0x7F} - set(b"\0\r\n")))
    _, client = log_in_at_ourselves(start_dialogue, protocol, LoginOffer(capability), credentials)
    assert client.outcome
    assert (client.outcome.user, client.outcome.password) == credentials[:2]


@every_server
def test_refusals_are_understood(
    start_dialogue: DialogueStarter, protocol: Protocol, capability: str
) -> None:
    login, client = log_in_at_ourselves(start_dialogue, protocol, LoginOffer(capability), JOE)
    assert client.outcome

    with pytest.raises(Rejected):
        login.receive(protocol.refusal(client.outcome, Rejected(), verbatim=False))


@every_server
def test_tls_is_negotiated_before_the_login(
    start_dialogue: DialogueStarter, protocol: Protocol, capability: str
) -> None:
    server = LoginOffer(capability, starttls=True, login_disabled=True)
    login, client = log_in_at_ourselves(
        start_dialogue, protocol, server, JOE, StartTLSPolicy.REQUIRED
    )

    assert (login.upgrades, client.upgrades) == (1, 1)
    assert client.outcome
    assert client.outcome.password == b"secret"


@pytest.mark.parametrize("starttls", [False, True])
@pytest.mark.parametrize("start_tls", StartTLSPolicy)
@every_server
def test_connection_to_ourselves_is_detected(
    start_dialogue: DialogueStarter,
    protocol: Protocol,
    capability: str,
    starttls: bool,
    start_tls: StartTLSPolicy,
) -> None:
    login = start_dialogue(protocol.server_dialogue(JOE, protocol.own_greeting(OURS), start_tls))
    with pytest.raises(ConnectedToItself):
        login.receive(protocol.greeting(OURS, LoginOffer(capability, starttls)))


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(
    ("protocol", "received"),
    [
        (POP3, b"CAPA\r\nUSER joe\r\nPASS secret\r\nSTAT\r\n"),
        (IMAP4, b'a NOOP\r\nb LOGIN {3+}\r\njoe "secret"\r\nc SELECT INBOX\r\n'),
        (SIEVE, b'NOOP {1+}\r\nx\r\nAUTHENTICATE "PLAIN" {16+}\r\nAGpvZQBzZWNyZXQ=\r\nNOOP\r\n'),
    ],
)
def test_bytes_may_arrive_in_any_pieces(
    start_dialogue: DialogueStarter, protocol: Protocol, received: bytes, size: int
) -> None:
    whole = start_dialogue(protocol.client_dialogue(NOTHING, NOTHING), received)
    pieces = start_dialogue(protocol.client_dialogue(NOTHING, NOTHING))
    for start in range(0, len(received), size):
        pieces.receive(received[start : start + size])

    assert pieces.outcome == whole.outcome
    assert (pieces.sent, pieces.unread) == (whole.sent, whole.unread)


SECRET = b"hunter2-Kn1ght"
MESSAGE = b64encode(b"\0joe\0" + SECRET)
MESSAGE_START = MESSAGE[:24]


def leaks(text: bytes | str) -> bool:
    """Whether a text contains the password."""
    data = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
    return SECRET in data or MESSAGE_START in data


@pytest.mark.parametrize(
    ("protocol", "received"),
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
def test_no_password_of_a_client_is_logged(
    start_dialogue: DialogueStarter, protocol: Protocol, received: bytes
) -> None:
    received = received.replace(b"%b", SECRET)
    assert leaks(received)

    dialogue = start_dialogue(protocol.client_dialogue(NOTHING, NOTHING), received)

    assert dialogue.logged
    assert not [line for line in dialogue.logged if leaks(line)]


def fail(
    login: DialogueUnderTest[Accepted], greeting: bytes, answer: bytes | None = None
) -> Failure:
    """Have a real server answer a password 2000 times, or echo it; return how the login fails."""
    try:
        login.receive(greeting)
        while not leaks(login.sent):
            login.receive(b"+OK go on\r\n")
        login.receive((answer or login.sent) * 2000)
    except Failure as failure:
        return failure
    raise AssertionError(f"the login goes on; it sent {login.sent!r}")


@pytest.mark.parametrize("extra", [b"", b"\xff", b"\0", b"\r\n"])
@pytest.mark.parametrize(
    "answer", [b"garbage", b"* BYE", b'BYE "bye"', b"-ERR no", b"NO", b"perdition NO no", b"\0"]
)
@every_server
def test_no_password_for_a_real_server_is_logged(
    start_dialogue: DialogueStarter,
    protocol: Protocol,
    capability: str,
    answer: bytes,
    extra: bytes,
) -> None:
    credentials = Credentials("joe", SECRET + extra)
    login = start_dialogue(
        protocol.server_dialogue(credentials, protocol.own_greeting(OURS), StartTLSPolicy.NEVER)
    )
    failure = fail(login, protocol.greeting(THEIRS, LoginOffer(capability)), answer + b"\r\n")

    assert not leaks(f"{failure!r} {failure.detail} {failure.status}")
    assert login.logged
    assert not [line for line in login.logged if leaks(line)]


@every_server
def test_password_that_a_real_server_echoes_is_in_no_failure(
    start_dialogue: DialogueStarter, protocol: Protocol, capability: str
) -> None:
    login = start_dialogue(
        protocol.server_dialogue(
            Credentials("joe", SECRET), protocol.own_greeting(OURS), StartTLSPolicy.NEVER
        )
    )
    failure = fail(login, protocol.greeting(THEIRS, LoginOffer(capability)))

    assert not leaks(f"{failure!r} {failure.detail} {failure.status}")


def test_credentials_do_not_show_their_password() -> None:
    assert not leaks(repr(Credentials("joe", SECRET)))
