"""IMAP clients learn the real server's capabilities with their login."""

import pytest

from tests.support.client_connection import connect_and_read_greeting
from tests.support.perdition import Perditions
from tests.support.scripted_server import PASSWORD, SERVER_SCRIPTS, ScriptedServer, answer_commands

LISTED = b"IMAP4rev1 IDLE"
RESPONSES = (
    (rb"perdition LOGIN .*\r\n", b"perdition OK welcome\r\n"),
    (rb"perdition CAPABILITY\r\n", b"* CAPABILITY %b\r\nperdition OK done\r\n" % LISTED),
)
CODE = b"a OK [CAPABILITY %b] You are so in\r\n" % LISTED
UNTAGGED = b"* CAPABILITY %b\r\n" % LISTED


@pytest.mark.parametrize(
    ("options", "asks", "reply"),
    [
        pytest.param((), False, CODE, id="response code"),
        pytest.param((), True, UNTAGGED + CODE, id="client that asked"),
        pytest.param(("-o",), False, UNTAGGED + b"a OK welcome\r\n", id="server_resp_line"),
    ],
)
def test_capabilities_are_requested_if_the_real_server_sends_none(
    options: tuple[str, ...], asks: bool, reply: bytes, perditions: Perditions
) -> None:
    with ScriptedServer() as server:
        proxy = perditions.start("imap4", "-M", "", "-s", server.name, *options)
        with connect_and_read_greeting(proxy.address, "imap4") as client:
            if asks:
                client.ask(b"c CAPABILITY", rb"c OK.*\r\n")
            client.send(b"a LOGIN joe %b\r\n" % PASSWORD.encode())
            with server.accept() as wire:
                wire.send(SERVER_SCRIPTS["imap4"].greeting)
                answer_commands(wire, RESPONSES)
                assert client.read_until(rb"(?m)^a OK.*\r\n") == reply
