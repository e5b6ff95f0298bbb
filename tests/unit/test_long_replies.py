"""Lines of a real server at the limit of their length must not cost much CPU time."""

import signal
from collections.abc import Iterator

import pytest

from perdition.failure import Failure
from perdition.protocol.base import SERVER_LINE_LIMIT, Protocol
from perdition.protocol.dialogue import Credentials, LoginOffer, StartTLSPolicy
from perdition.protocol.imap4 import IMAP4
from perdition.protocol.managesieve import ManageSieve
from perdition.protocol.pop3 import POP3
from tests.unit.scripted_dialogue import DialogueStarter, ProtocolUnderTest

CPU_SECONDS = 3.0
LOGINS = 20
"""With a quadratic expression, each takes more than a second."""


@pytest.fixture
def cpu_limit() -> Iterator[None]:
    def expire(*_: object) -> None:
        raise AssertionError(f"more than {CPU_SECONDS} s of CPU time")

    previous = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, previous)


@pytest.mark.parametrize(
    ("protocol", "before", "start", "repeated"),
    [
        (IMAP4(), b"* OK [CAPABILITY IMAP4]\r\n", b"perdition NO [", b"a"),
        (IMAP4(), b"* OK [CAPABILITY IMAP4]\r\n", b"perdition NO [", b"a "),
        (IMAP4(), b"* OK [CAPABILITY IMAP4]\r\n", b"perdition OK ", b"[CAPABILITY "),
        (IMAP4(), b"", b"* OK ", b"[CAPABILITY "),
        (POP3(), b"+OK\r\n", b"-ERR [", b"a"),
        (POP3(), b"+OK\r\n", b"-ERR [", b"a/"),
        (ManageSieve(), b'"SASL" "PLAIN"\r\nOK\r\n', b"NO (", b"a"),
        (ManageSieve(), b'"SASL" "PLAIN"\r\nOK\r\n', b"NO (", b"a "),
        (ManageSieve(), b'"SASL" "PLAIN"\r\nOK\r\n', b"NO (", b'""'),
    ],
)
@pytest.mark.usefixtures("cpu_limit")
def test_long_line_is_parsed_in_linear_time(
    start_dialogue: DialogueStarter,
    protocol: Protocol,
    before: bytes,
    start: bytes,
    repeated: bytes,
) -> None:
    long = start + repeated * ((SERVER_LINE_LIMIT - len(start) - 2) // len(repeated)) + b"\r\n"
    under_test = ProtocolUnderTest(start_dialogue, protocol, LoginOffer(""), Credentials("j", b"p"))
    for _ in range(LOGINS):
        login = under_test.login(before, StartTLSPolicy.NEVER)
        try:
            login.receive(long)
        except Failure:
            continue
        assert login.waits_for_more  # for the response to CAPABILITY
