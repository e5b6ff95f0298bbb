"""What the client, the real server and the log see when a real server refuses a login."""

import re
from typing import NamedTuple

import pytest

from tests.support.client_connection import PROTOCOLS, connect_and_read_greeting
from tests.support.perdition import Perditions
from tests.support.scripted_server import PASSWORD, SERVER_SCRIPTS, ScriptedServer, answer_commands

WELCOME = b"* OK [ALERT] %b\r\nperdition OK [CAPABILITY IMAP4rev1] hello\r\n"
RE_AUTHENTICATION = 'status="failed: Re-Authentication Failure"'


class Refusal(NamedTuple):
    """A real server's reply to the credentials, the client's, and the status in the log."""

    protocol: str
    said: bytes
    client: bytes
    status: str


REFUSALS = [
    Refusal(
        "pop3",
        b"-ERR [IN-USE] mailbox\x01locked",
        b"-ERR [IN-USE] mailbox locked",
        "server refused: -ERR [IN-USE] mailbox locked",
    ),
    Refusal("pop3", b"-ERR wrong", b"-ERR [AUTH] Re-Authentication Failure", ""),
    Refusal(
        "imap4",
        b"perdition NO [UNAVAILABLE] later",
        b"a NO [UNAVAILABLE] later",
        "server refused: NO [UNAVAILABLE] later",
    ),
    Refusal(
        "imap4",
        b"* BYE too many connections",
        b"a NO [UNAVAILABLE] too many connections",
        "server refused: BYE too many connections",
    ),
    Refusal(
        "imap4",
        b"* NO [AUTHENTICATIONFAILED] wrong",
        b"a NO [AUTHENTICATIONFAILED] Re-Authentication Failure",
        "",
    ),
    Refusal(
        "managesieve",
        b"NO (TRYLATER) {5}\r\nlater",
        b"NO (TRYLATER) {5}\r\nlater",
        r"server refused: NO (TRYLATER) {5}\x0d\x0alater",
    ),
    Refusal(
        "managesieve",
        b'BYE (TRYLATER) "later"',
        b'NO (TRYLATER) "later"',
        r"server refused: BYE (TRYLATER) \x22later\x22",
    ),
    Refusal("managesieve", b'NO "wrong"', b'NO "Re-Authentication Failure"', ""),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.said)
def test_reason_of_the_real_server_reaches_client_and_log(
    refusal: Refusal, perditions: Perditions
) -> None:
    part, dialogue = SERVER_SCRIPTS[refusal.protocol], PROTOCOLS[refusal.protocol]
    with ScriptedServer() as server:
        proxy = perditions.start(refusal.protocol, "-M", "", "-s", server.name)
        with connect_and_read_greeting(proxy.address, refusal.protocol) as client:
            exchanges = dialogue.credentials("joe", PASSWORD)
            for command, reply in exchanges[:-1]:
                client.ask(command, reply)
            client.send(exchanges[-1][0] + b"\r\n")
            with server.accept() as wire:
                wire.send(part.greeting)
                answer_commands(
                    wire, [*part.login[:-1], (part.login[-1][0], refusal.said + b"\r\n")]
                )
                reply = client.read_until(re.escape(refusal.client) + rb"\r\n")
            assert reply == refusal.client + b"\r\n"
            assert client.ask(dialogue.logout, rb"(OK|BYE).*\r\n")

    [line] = proxy.wait_for_log("Auth: .*status=")
    expected = f'status="failed: {refusal.status}"' if refusal.status else RE_AUTHENTICATION
    assert line.endswith(expected)
    assert not proxy.logged(PASSWORD)
    if not refusal.status:
        assert proxy.logged("the real server replied: .*wrong")


@pytest.mark.parametrize("options", [(), ("-o",)], ids=["ok_line", "server_resp_line"])
def test_password_that_the_real_server_repeats_at_a_login_reaches_nobody(
    options: tuple[str, ...], perditions: Perditions
) -> None:
    """It may be a password of the popmap, which the client must not learn."""
    with ScriptedServer() as server:
        debug = ("--debug", "--connection_logging")
        proxy = perditions.start("imap4", "-M", "", "-s", server.name, *debug, *options)
        with connect_and_read_greeting(proxy.address, "imap4") as client:
            client.send(b"a LOGIN joe %b\r\n" % PASSWORD.encode())
            with server.accept() as real:
                real.send(SERVER_SCRIPTS["imap4"].greeting)
                welcome = WELCOME % PASSWORD.encode()
                answer_commands(real, [(rb"perdition LOGIN .*\r\n", welcome)])
                reply = client.read_until(rb"a OK.*\r\n")

    assert PASSWORD.encode() not in reply
    assert b"You are so in" in reply
    assert not proxy.logged(PASSWORD)
