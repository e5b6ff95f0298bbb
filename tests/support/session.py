"""A client who is logged in, over any of the protocols, byte by byte."""

import base64
import socket
import ssl
from typing import NamedTuple

from tests.support.wait import DEADLINE
from tests.support.wire import Wire


class TLS(NamedTuple):
    """How a client uses TLS: "ssl" from the first byte, or "starttls"."""

    use: str
    context: ssl.SSLContext
    host: str = "localhost"


class Dialogue(NamedTuple):
    """What is said in a protocol. An exchange is a command and the pattern of its answer's end.

    `secured` is the pattern of what the server says unasked once TLS has begun.
    """

    greeting: bytes
    starttls: tuple[bytes, bytes]
    secured: bytes
    login: tuple[tuple[bytes, bytes], ...]
    question: tuple[bytes, bytes]
    farewell: bytes

    def credentials(self, user: str, password: str) -> list[tuple[bytes, bytes]]:
        """The exchanges that log that user in."""
        values = {
            b"user": user.encode(),
            b"password": password.encode(),
            b"plain": base64.b64encode(f"\0{user}\0{password}".encode()),
        }
        return [(command % values, answer) for command, answer in self.login]


DIALOGUES = {
    "pop3": Dialogue(
        greeting=rb"\+OK.*\r\n",
        starttls=(b"STLS", rb"\+OK.*\r\n"),
        secured=b"",
        login=((b"USER %(user)b", rb"\+OK.*\r\n"), (b"PASS %(password)b", rb"\+OK.*\r\n")),
        question=(b"STAT", rb"\+OK \d+ \d+\r\n"),
        farewell=b"QUIT",
    ),
    "imap4": Dialogue(
        greeting=rb"\* OK.*\r\n",
        starttls=(b"s STARTTLS", rb"(?m)^s OK.*\r\n"),
        secured=b"",
        login=((b"a LOGIN %(user)b %(password)b", rb"(?m)^a OK.*\r\n"),),
        question=(b"b NOOP", rb"(?m)^b OK.*\r\n"),
        farewell=b"z LOGOUT",
    ),
    "managesieve": Dialogue(
        greeting=rb"(?m)^OK.*\r\n",
        starttls=(b"STARTTLS", rb"OK.*\r\n"),
        secured=rb"(?m)^OK.*\r\n",
        login=((b'AUTHENTICATE "PLAIN" "%(plain)b"', rb"OK.*\r\n"),),
        question=(b"LISTSCRIPTS", rb"(?m)^OK.*\r\n"),
        farewell=b"LOGOUT",
    ),
}


def greeted(address: tuple[str, int], protocol: str, tls: TLS | None = None) -> Wire:
    """A connection on which the client is about to give its first command."""
    wire = Wire.to(address)
    try:
        hear_greeting(wire, protocol, tls)
    except BaseException:
        wire.close()
        raise
    return wire


def hear_greeting(wire: Wire, protocol: str, tls: TLS | None) -> None:
    """Come as far as to the client's first command, with TLS where that is wanted."""
    dialogue = DIALOGUES[protocol]
    if tls and tls.use == "ssl":
        wire.start_tls(tls.context, tls.host)
    wire.read_until(dialogue.greeting)
    if tls and tls.use == "starttls":
        wire.ask(*dialogue.starttls)
        wire.start_tls(tls.context, tls.host)
        wire.read_until(dialogue.secured)


class Session(Wire):
    """A connection that has just logged a user in; from here on its bytes are counted."""

    def __init__(
        self,
        address: tuple[str, int],
        protocol: str,
        user: str,
        password: str,
        tls: TLS | None = None,
    ) -> None:
        super().__init__(socket.create_connection(address, DEADLINE))
        self._dialogue = DIALOGUES[protocol]
        hear_greeting(self, protocol, tls)
        for command, answer in self._dialogue.credentials(user, password):
            self.ask(command, answer)
        self.start_counting()

    def use(self) -> None:
        """Ask the real server something, and get the answer."""
        self.ask(*self._dialogue.question)

    def log_out(self) -> bytes:
        """Say goodbye, and read until the other side has closed."""
        self.send(self._dialogue.farewell + b"\r\n")
        rest = self.read_to_end()
        self.close()
        return rest
