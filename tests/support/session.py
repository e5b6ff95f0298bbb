"""A client who is logged in, over any of the protocols, byte by byte."""

import base64
import socket
from typing import NamedTuple

from tests.support.wait import DEADLINE
from tests.support.wire import Wire


class Dialogue(NamedTuple):
    """What is said in a protocol. An exchange is a command and the pattern of its answer's end."""

    greeting: bytes
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
        login=((b"USER %(user)b", rb"\+OK.*\r\n"), (b"PASS %(password)b", rb"\+OK.*\r\n")),
        question=(b"STAT", rb"\+OK \d+ \d+\r\n"),
        farewell=b"QUIT",
    ),
    "imap4": Dialogue(
        greeting=rb"\* OK.*\r\n",
        login=((b"a LOGIN %(user)b %(password)b", rb"(?m)^a OK.*\r\n"),),
        question=(b"b NOOP", rb"(?m)^b OK.*\r\n"),
        farewell=b"z LOGOUT",
    ),
    "managesieve": Dialogue(
        greeting=rb"(?m)^OK.*\r\n",
        login=((b'AUTHENTICATE "PLAIN" "%(plain)b"', rb"OK.*\r\n"),),
        question=(b"LISTSCRIPTS", rb"(?m)^OK.*\r\n"),
        farewell=b"LOGOUT",
    ),
}


class Session(Wire):
    """A connection that has just logged a user in; from here on its bytes are counted."""

    def __init__(self, address: tuple[str, int], protocol: str, user: str, password: str) -> None:
        super().__init__(socket.create_connection(address, DEADLINE))
        self._dialogue = DIALOGUES[protocol]
        self.read_until(self._dialogue.greeting)
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
