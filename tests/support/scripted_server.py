"""A real server whose part a test plays itself, line by line."""

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.proxy import Proxy
from tests.support.session import DIALOGUES, TLS, greeted
from tests.support.wait import DEADLINE
from tests.support.wire import Wire

PASSWORD = "secret-of-joe"

Exchange = tuple[bytes, bytes]
"""The pattern of what perdition sends, and the answer."""


class Part(NamedTuple):
    """What a real server says in a protocol: on the way to TLS, right after it, and at a login."""

    greeting: bytes
    features: tuple[Exchange, ...]
    starttls: Exchange
    unasked: bytes
    new_features: tuple[Exchange, ...]
    login: tuple[Exchange, ...]


PARTS = {
    "pop3": Part(
        greeting=b"+OK ready\r\n",
        features=((rb"CAPA\r\n", b"+OK\r\nSTLS\r\n.\r\n"),),
        starttls=(rb"STLS\r\n", b"+OK begin\r\n"),
        unasked=b"",
        new_features=(),
        login=((rb"USER .*\r\n", b"+OK\r\n"), (rb"PASS .*\r\n", b"+OK welcome\r\n")),
    ),
    "imap4": Part(
        greeting=b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n",
        features=(),
        starttls=(rb"perdition STARTTLS\r\n", b"perdition OK begin\r\n"),
        unasked=b"",
        new_features=(
            (rb"perdition CAPABILITY\r\n", b"* CAPABILITY IMAP4rev1\r\nperdition OK\r\n"),
        ),
        login=((rb"perdition LOGIN .*\r\n", b"perdition OK [CAPABILITY IMAP4rev1] welcome\r\n"),),
    ),
    "managesieve": Part(
        greeting=b'"SASL" "PLAIN"\r\n"STARTTLS"\r\nOK "ready"\r\n',
        features=(),
        starttls=(rb"STARTTLS\r\n", b'OK "begin"\r\n'),
        unasked=b'"SASL" "PLAIN"\r\nOK "secure"\r\n',
        new_features=(),
        login=((rb"AUTHENTICATE .*\r\n", b'OK "welcome"\r\n'),),
    ),
}


class ScriptedServer:
    """It listens; what is said over its connections is the test's."""

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

    def accept(self) -> Wire:
        """The next connection that perdition makes."""
        return Wire(self._listener.accept()[0])


@contextmanager
def visited(
    server: ScriptedServer,
    proxy: Proxy,
    user: str = "joe",
    tls: TLS | None = None,
    behind: bytes = b"",
) -> Iterator[tuple[Wire, Wire]]:
    """A client that gives its password, and the connection that perdition then makes for it.

    What is to be `behind` the client's login goes in the same TLS record.
    """
    with greeted(proxy.address, proxy.protocol, tls) as client:
        exchanges = DIALOGUES[proxy.protocol].credentials(user, PASSWORD)
        client.send(b"".join(command + b"\r\n" for command, _ in exchanges) + behind)
        with server.accept() as wire:
            yield client, wire


def play(wire: Wire, exchanges: Iterable[Exchange]) -> None:
    """Await each command and answer it."""
    for command, answer in exchanges:
        wire.read_until(command)
        wire.send(answer)


def let_in(wire: Wire, protocol: str) -> None:
    """Greet, and accept whoever comes."""
    wire.send(PARTS[protocol].greeting)
    play(wire, PARTS[protocol].login)


def go_on_with_tls(wire: Wire, protocol: str, context: ssl.SSLContext) -> None:
    """Greet, offer TLS, and do what it takes until the login comes."""
    part = PARTS[protocol]
    wire.send(part.greeting)
    play(wire, (*part.features, part.starttls))
    wire.start_tls(context)
    wire.send(part.unasked)
    play(wire, part.new_features)
