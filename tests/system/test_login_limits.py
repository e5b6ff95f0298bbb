"""Limits to a login: real servers and popmaps that never answer, clients that never log in."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from perdition.options.table import OPTIONS
from tests.support.client_connection import (
    PROTOCOLS,
    LoggedInClient,
    RawConnection,
    connect_and_read_greeting,
)
from tests.support.perdition import PerditionProcess, Perditions
from tests.support.real_server import RealServer
from tests.support.scripted_server import (
    PASSWORD,
    SERVER_SCRIPTS,
    ScriptedServer,
    accept_login,
    answer_commands,
    client_and_server,
)

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)

TEMPORARY = {
    "pop3": rb"-ERR \[SYS/TEMP\].*\r\n",
    "imap4": rb"a NO \[UNAVAILABLE\].*\r\n",
    "managesieve": rb"NO \(TRYLATER\).*\r\n",
}
CLOSING = {"pop3": rb"", "imap4": rb"\* BYE .*\r\n", "managesieve": rb'BYE ".*"\r\n'}
"""What a client gets before its connection is closed; POP3 has no such notice (RFC 1939)."""
SECONDS = 1
LONG = 60


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def front(perditions: Perditions, protocol: str, server: str, *options: str) -> PerditionProcess:
    """A perdition that has one real server for all users."""
    return perditions.start(protocol, "-M", "", "-s", server, *options)


@contextmanager
def trickle(wire: RawConnection, data: bytes) -> Iterator[None]:
    """Send bytes all the time, until the connection is closed."""
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.1):
            try:
                wire.send(data)
            except OSError:
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def expect_temporary_failure(proxy: PerditionProcess, client: RawConnection) -> None:
    """The client may try again on the same connection, and the log names the limit."""
    client.read_until(TEMPORARY[proxy.protocol])
    proxy.wait_for_log(
        rf"{client.own_address}->.*: login_timeout \({SECONDS} s\) exceeded while waiting for "
    )
    proxy.wait_for_log(
        f'Auth: {client.own_address}->.* server="127.0.0.1:.* status="failed: Login Timeout"'
    )


def test_silent_real_server_fails_a_login_in_time(
    perditions: Perditions, server: ScriptedServer
) -> None:
    limits = ("--login_timeout", str(SECONDS), "--connect_timeout", str(LONG))
    proxy = front(perditions, "imap4", server.name, *limits)
    with client_and_server(server, proxy) as (client, _):
        expect_temporary_failure(proxy, client)


@every_protocol
def test_trickling_real_server_fails_a_login_in_time(
    protocol: str, perditions: Perditions, server: ScriptedServer
) -> None:
    proxy = front(perditions, protocol, server.name, "--login_timeout", str(SECONDS))
    with client_and_server(server, proxy) as (client, real):
        *before, (last, _) = SERVER_SCRIPTS[protocol].login
        real.send(SERVER_SCRIPTS[protocol].greeting)
        answer_commands(real, before)
        real.read_until(last)
        with trickle(real, b"x"):
            expect_temporary_failure(proxy, client)


def test_connection_survives_a_login_that_took_too_long(
    perditions: Perditions, server: ScriptedServer
) -> None:
    proxy = front(perditions, "imap4", server.name, "--login_timeout", str(SECONDS))
    with client_and_server(server, proxy) as (client, _):
        expect_temporary_failure(proxy, client)
        client.send(b"b LOGIN joe again\r\n")
        with server.accept() as real:
            accept_login(real, "imap4")
            client.read_until(rb"(?m)^b OK.*\r\n")


def test_silent_popmap_fails_a_login_in_time(
    perditions: Perditions, server: ScriptedServer
) -> None:
    """The time of the lookup counts, even if map_timeout is longer."""
    limits = ("--login_timeout", str(SECONDS), "--map_timeout", str(LONG))
    proxy = perditions.start("imap4", "-M", "http", "-m", f"http://{server.name}/", *limits)
    with connect_and_read_greeting(proxy.address, "imap4") as client:
        client.send(b"a LOGIN joe secret\r\n")
        client.read_until(TEMPORARY["imap4"])
        proxy.wait_for_log(r"login_timeout \(1 s\) exceeded while waiting for popmap")


def test_silent_address_fails_a_login_after_connect_timeout(
    perditions: Perditions, server: ScriptedServer
) -> None:
    proxy = front(perditions, "imap4", server.name, "--connect_timeout", str(SECONDS))
    with client_and_server(server, proxy) as (client, _):
        client.read_until(TEMPORARY["imap4"])
        proxy.wait_for_log(rf"{server.name}: connect_timeout \({SECONDS} s\) exceeded")


@every_protocol
def test_client_that_does_not_log_in_is_closed(protocol: str, perditions: Perditions) -> None:
    proxy = front(perditions, protocol, "127.0.0.1:1", "--login_deadline", str(SECONDS))
    with connect_and_read_greeting(proxy.address, protocol) as client:
        assert re.fullmatch(CLOSING[protocol], client.read_to_end())
        proxy.wait_for_log(rf"{client.own_address}->.*: login_deadline \({SECONDS} s\) exceeded")
        proxy.wait_for_log(f"Close: {client.own_address}->")


@pytest.mark.parametrize("data", [b"x", b"n NOOP\r\n"])
def test_bytes_do_not_extend_the_deadline(data: bytes, perditions: Perditions) -> None:
    proxy = front(perditions, "imap4", "127.0.0.1:1", "--login_deadline", str(SECONDS))
    with connect_and_read_greeting(proxy.address, "imap4") as client, trickle(client, data):
        client.read_until(CLOSING["imap4"])
        proxy.wait_for_log(rf"{client.own_address}->.*: login_deadline \({SECONDS} s\) exceeded")


@every_protocol
def test_idle_client_is_told_why_it_is_closed(protocol: str, perditions: Perditions) -> None:
    proxy = front(perditions, protocol, "127.0.0.1:1", "--authenticate_timeout", str(SECONDS))
    with connect_and_read_greeting(proxy.address, protocol) as client:
        assert re.fullmatch(CLOSING[protocol], client.read_to_end())
        proxy.wait_for_log(rf"authenticate_timeout \({SECONDS} s\) exceeded")


def test_deadline_interrupts_no_login(perditions: Perditions, server: ScriptedServer) -> None:
    """The user is logged in although the real server answers after the deadline."""
    proxy = front(perditions, "imap4", server.name, "--login_deadline", str(SECONDS))
    with (
        client_and_server(server, proxy) as (client, real),
        connect_and_read_greeting(proxy.address, "imap4") as later,
    ):
        later.read_to_end()
        accept_login(real, "imap4")
        client.read_until(PROTOCOLS["imap4"].login[-1][1])


def test_session_outlives_the_deadline(perditions: Perditions, small_server: RealServer) -> None:
    proxy = front(perditions, "imap4", small_server.server("imap4"), "--login_deadline", "1")
    session = LoggedInClient(proxy.address, "imap4", "joe", PASSWORD)
    with session, connect_and_read_greeting(proxy.address, "imap4") as other:
        other.read_to_end()
        session.use()


@every_protocol
def test_connection_is_closed_after_max_login_attempts(
    protocol: str, perditions: Perditions, small_server: RealServer
) -> None:
    address = small_server.server(protocol)
    proxy = front(perditions, protocol, address, "--max_login_attempts", "2")
    exchanges = PROTOCOLS[protocol].credentials("joe", "wrong")
    refusal = rb"(?m)^(-ERR|NO|a NO).*\r\n"
    with connect_and_read_greeting(proxy.address, protocol) as client:
        for _ in range(2):
            *before, (command, _) = exchanges
            for line, answer in before:
                client.ask(line, answer)
            client.ask(command, refusal)
        assert re.fullmatch(CLOSING[protocol], client.read_to_end())
        proxy.wait_for_log(rf"{client.own_address}->.*: max_login_attempts \(2\) reached")


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("connect_timeout", 10),
        ("login_timeout", 60),
        ("login_deadline", 180),
        ("max_login_attempts", 0),
        ("authenticate_timeout", 1800),
    ],
)
def test_limits_have_defaults(name: str, default: int) -> None:
    assert OPTIONS[name].default == default
