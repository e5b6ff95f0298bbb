"""A real server whose dialogue is the test's, line by line."""

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.client_connection import (
    PROTOCOLS,
    ClientTLS,
    RawConnection,
    connect_and_read_greeting,
)
from tests.support.perdition import PerditionProcess
from tests.support.wait import DEADLINE

PASSWORD = "secret-of-joe"

Exchange = tuple[bytes, bytes]
"""The pattern of what perdition sends, and the answer."""


class ServerScript(NamedTuple):
    """A real server's lines in a protocol: up to STARTTLS, once TLS has begun, and at login."""

    greeting: bytes
    features: tuple[Exchange, ...]
    starttls: Exchange
    after_tls: bytes
    features_after_tls: tuple[Exchange, ...]
    login: tuple[Exchange, ...]


SERVER_SCRIPTS = {
    "pop3": ServerScript(
        greeting=b"+OK ready\r\n",
        features=((rb"CAPA\r\n", b"+OK\r\nSTLS\r\n.\r\n"),),
        starttls=(rb"STLS\r\n", b"+OK begin\r\n"),
        after_tls=b"",
        features_after_tls=(),
        login=((rb"USER .*\r\n", b"+OK\r\n"), (rb"PASS .*\r\n", b"+OK welcome\r\n")),
    ),
    "imap4": ServerScript(
        greeting=b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n",
        features=(),
        starttls=(rb"perdition STARTTLS\r\n", b"perdition OK begin\r\n"),
        after_tls=b"",
        features_after_tls=(
            (rb"perdition CAPABILITY\r\n", b"* CAPABILITY IMAP4rev1\r\nperdition OK\r\n"),
        ),
        login=((rb"perdition LOGIN .*\r\n", b"perdition OK [CAPABILITY IMAP4rev1] welcome\r\n"),),
    ),
    "managesieve": ServerScript(
        greeting=b'"SASL" "PLAIN"\r\n"STARTTLS"\r\nOK "ready"\r\n',
        features=(),
        starttls=(rb"STARTTLS\r\n", b'OK "begin"\r\n'),
        after_tls=b'"SASL" "PLAIN"\r\nOK "secure"\r\n',
        features_after_tls=(),
        login=((rb"AUTHENTICATE .*\r\n", b'OK "welcome"\r\n'),),
    ),
}


class ScriptedServer:
    """It listens; the test reads and writes its connections."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE)
        self.port: int = self._listener.getsockname()[1]
        self.name = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()

    def accept(self) -> RawConnection:
        """The next connection that perdition makes."""
        return RawConnection(self._listener.accept()[0])


@contextmanager
def client_and_server(
    server: ScriptedServer,
    proxy: PerditionProcess,
    user: str = "joe",
    tls: ClientTLS | None = None,
    appended: bytes = b"",
) -> Iterator[tuple[RawConnection, RawConnection]]:
    """A client that sends its password, and the connection that perdition then makes for it.

    `appended` goes after the login in the same TLS record.
    """
    with connect_and_read_greeting(proxy.address, proxy.protocol, tls) as client:
        exchanges = PROTOCOLS[proxy.protocol].credentials(user, PASSWORD)
        client.send(b"".join(command + b"\r\n" for command, _ in exchanges) + appended)
        with server.accept() as connection:
            yield client, connection


def answer_commands(connection: RawConnection, exchanges: Iterable[Exchange]) -> None:
    """Wait for each command and answer it."""
    for command, answer in exchanges:
        connection.read_until(command)
        connection.send(answer)


def accept_login(connection: RawConnection, protocol: str) -> None:
    """Send the greeting, and accept the login."""
    connection.send(SERVER_SCRIPTS[protocol].greeting)
    answer_commands(connection, SERVER_SCRIPTS[protocol].login)


def start_tls_before_login(
    connection: RawConnection, protocol: str, context: ssl.SSLContext
) -> None:
    """Send the greeting, offer TLS, and answer all up to the login."""
    script = SERVER_SCRIPTS[protocol]
    connection.send(script.greeting)
    answer_commands(connection, (*script.features, script.starttls))
    connection.start_tls(context)
    connection.send(script.after_tls)
    answer_commands(connection, script.features_after_tls)
