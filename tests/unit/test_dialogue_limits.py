"""What is read from a peer: no line or literal over its limit, nothing from before TLS.

Each protocol has a dialogue with clients and one with real servers. Both read with perdition's own
stream here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from perdition.failure import NegotiationFailed
from perdition.net.stream import CHUNK
from perdition.protocol import SERVICES
from perdition.protocol.base import Protocol
from perdition.protocol.dialogue import (
    Accepted,
    Credentials,
    Dialogue,
    LineTooLong,
    LoginOffer,
    StartTLSPolicy,
)
from tests.unit.scripted_dialogue import DialogueStarter, DialogueUnderTest

POP3, IMAP4, SIEVE = (SERVICES[name].protocol for name in ("POP3", "IMAP4", "MANAGESIEVE"))
JOE = Credentials("joe", b"secret")
SIEVE_JOE = b'AUTHENTICATE "PLAIN" "AGpvZQBzZWNyZXQ="\r\n'

Begin = Callable[[Protocol], Dialogue[Any]]


def client(protocol: Protocol) -> Dialogue[Any]:
    """The dialogue with a client that may use STARTTLS."""
    return protocol.client_dialogue(LoginOffer("", starttls=True), LoginOffer(""))


def login(protocol: Protocol) -> Dialogue[Any]:
    """The dialogue with a real server, with STARTTLS if that offers it."""
    return protocol.server_dialogue(
        JOE, protocol.own_greeting("proxy.example"), StartTLSPolicy.IF_OFFERED
    )


class Side(NamedTuple):
    """One dialogue of a protocol, and what its peer sends in the tests.

    A line that begins with ``line`` may have up to ``limit`` bytes; ``answer`` is what is sent
    then. ``plain`` is what the peer sends until TLS starts, ``injected`` what an attacker adds to
    that, and ``secured`` what leads to ``outcome`` after the handshake.
    """

    protocol: Protocol
    begin: Begin
    line: bytes
    limit: int
    answer: bytes
    plain: bytes
    injected: bytes
    secured: bytes
    outcome: Credentials | Accepted


SIDES = {
    "pop3 client": Side(
        POP3,
        client,
        line=b"USER ",
        limit=4096,
        answer=b"+OK send",
        plain=b"STLS\r\n",
        injected=b"USER evil\r\nPASS evil\r\n",
        secured=b"USER joe\r\nPASS secret\r\n",
        outcome=JOE,
    ),
    "imap4 client": Side(
        IMAP4,
        client,
        line=b"a ID ",
        limit=65536,
        answer=b"* ID",
        plain=b"a STARTTLS\r\n",
        injected=b"b LOGIN evil evil\r\n",
        secured=b"a LOGIN joe secret\r\n",
        outcome=JOE._replace(tag=b"a"),
    ),
    "managesieve client": Side(
        SIEVE,
        client,
        line=b"PUTSCRIPT ",
        limit=4096,
        answer=b"NO ",
        plain=b"STARTTLS\r\n",
        injected=b"LOGOUT\r\n",
        secured=SIEVE_JOE,
        outcome=JOE,
    ),
    "pop3 login": Side(
        POP3,
        login,
        line=b"+OK ",
        limit=65536,
        answer=b"CAPA\r\n",
        plain=b"+OK hi\r\n+OK\r\nSTLS\r\n.\r\n+OK go\r\n",
        injected=b"+OK a\r\n+OK b\r\n",
        secured=b"+OK\r\n+OK in\r\n",
        outcome=Accepted(b"+OK in"),
    ),
    "imap4 login": Side(
        IMAP4,
        login,
        line=b"* OK [CAPABILITY IMAP4rev1] ",
        limit=65536,
        answer=b"perdition LOGIN ",
        plain=(
            b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n"
            b"* OK [ALERT] send money\r\nperdition OK go\r\n"
        ),
        injected=b"* CAPABILITY IMAP4rev1\r\nperdition OK injected\r\n",
        secured=b"* CAPABILITY IMAP4rev1\r\nperdition OK done\r\n"
        b"perdition OK [CAPABILITY IDLE] in\r\n",
        outcome=Accepted(b"OK [CAPABILITY IDLE] in", capability=b"IDLE"),
    ),
    "managesieve login": Side(
        SIEVE,
        login,
        line=b'"SASL" "PLAIN"\r\nOK ',
        limit=65536,
        answer=b"AUTHENTICATE ",
        plain=b'"SASL" "PLAIN"\r\n"STARTTLS"\r\nOK "hi"\r\nOK\r\n',
        injected=b'"SASL" "PLAIN"\r\nOK "injected"\r\n',
        secured=b'"SASL" "PLAIN"\r\nOK "hi"\r\nOK "in"\r\n',
        outcome=Accepted(b'OK "in"'),
    ),
}
every_side = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)


def line_of(side: Side, length: int) -> bytes:
    """The peer's line with that many bytes, without its line end."""
    *_, begun = side.line.split(b"\n")
    return side.line + b"x" * (length - len(begun))


def assert_ends(
    dialogue: DialogueUnderTest[Any], begin: Begin, data: bytes, error: type[Exception]
) -> None:
    """Check that bytes end the dialogue: a client gets an answer, a login raises an error."""
    if begin is client:
        dialogue.receive(data)
        assert dialogue.outcome is None
        assert dialogue.answers[-1] in (b"-ERR", b"*", b"BYE")
    else:
        with pytest.raises(error):
            dialogue.receive(data)


@every_side
def test_line_of_the_limit_is_answered(start_dialogue: DialogueStarter, side: Side) -> None:
    dialogue = start_dialogue(side.begin(side.protocol), line_of(side, side.limit) + b"\n")
    assert dialogue.sent.startswith(side.answer)
    assert dialogue.waits_for_more


@every_side
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""], ids=["LF", "CR LF", "no end"])
def test_line_over_the_limit_ends_the_dialogue(
    start_dialogue: DialogueStarter, side: Side, end: bytes
) -> None:
    dialogue = start_dialogue(side.begin(side.protocol))
    assert_ends(dialogue, side.begin, line_of(side, side.limit + 1) + end, LineTooLong)
    assert side.answer not in dialogue.sent


@every_side
def test_unfinished_line_is_not_read_far_beyond_the_limit(
    start_dialogue: DialogueStarter, side: Side
) -> None:
    """The memory that a peer can take is bounded."""
    dialogue = start_dialogue(side.begin(side.protocol))
    assert_ends(dialogue, side.begin, line_of(side, 1_000_000), LineTooLong)
    assert dialogue.buffered <= side.limit + CHUNK


LITERALS = [
    pytest.param(IMAP4, client, b"a LOGIN joe {%d+}\r\n", 16384, id="imap4 client"),
    pytest.param(SIEVE, client, b'AUTHENTICATE "PLAIN" {%d+}\r\n', 16384, id="managesieve client"),
    pytest.param(
        IMAP4,
        login,
        b"* OK [CAPABILITY IMAP4rev1] hi\r\n* X {%d}\r\n",
        65536 - len(b"* X {65521}\r\n" + b"\r\n"),  # all untagged answers count
        id="imap4 login",
    ),
    pytest.param(
        SIEVE,
        login,
        b'"X" {%d}\r\n',
        65535 - len(b'"X" {65522}\r\n'),  # all lines before the OK count
        id="managesieve login",
    ),
]
every_literal = pytest.mark.parametrize(("protocol", "begin", "line", "limit"), LITERALS)


@every_literal
def test_literal_of_the_limit_is_read(
    start_dialogue: DialogueStarter, protocol: Protocol, begin: Begin, line: bytes, limit: int
) -> None:
    dialogue = start_dialogue(begin(protocol), line % limit + b"x" * limit + b"\r\n")
    assert dialogue.unread == b""
    if begin is client and protocol is IMAP4:
        assert dialogue.outcome.password == b"x" * limit
    else:
        assert dialogue.waits_for_more


@every_literal
def test_literal_over_the_limit_ends_the_dialogue(
    start_dialogue: DialogueStarter, protocol: Protocol, begin: Begin, line: bytes, limit: int
) -> None:
    dialogue = start_dialogue(begin(protocol))
    data = line % (limit + 1) + b"x" * (limit + 1) + b"\r\n"
    assert_ends(dialogue, begin, data, NegotiationFailed)


def test_synchronizing_literal_over_the_limit_is_not_invited(
    start_dialogue: DialogueStarter,
) -> None:
    dialogue = start_dialogue(client(IMAP4), b"a LOGIN joe {16384}\r\n")
    assert dialogue.sent.startswith(b"+ ")
    dialogue.receive(b"x" * 16384 + b"\r\n")
    assert dialogue.outcome.password == b"x" * 16384

    dialogue = start_dialogue(client(IMAP4), b"a LOGIN joe {16385}\r\n")
    assert dialogue.sent.startswith(b"a BAD ")
    assert dialogue.waits_for_more


@every_side
@pytest.mark.parametrize("injected", ["nothing", "whole lines", "part of a line"])
def test_plain_text_after_the_start_of_tls_is_discarded(
    start_dialogue: DialogueStarter, side: Side, injected: str
) -> None:
    added = {"nothing": b"", "whole lines": side.injected, "part of a line": side.injected[:-3]}
    untouched = start_dialogue(side.begin(side.protocol), side.plain)
    sent_before = untouched.sent

    dialogue = start_dialogue(side.begin(side.protocol), side.plain + added[injected])

    assert (dialogue.upgrades, dialogue.sent, dialogue.unread) == (1, sent_before, b"")
    assert dialogue.waits_for_more
    dialogue.receive(side.secured)
    assert dialogue.outcome == side.outcome
    assert dialogue.sent == untouched.receive(side.secured).sent
    assert dialogue.unread == b""
