"""Runs a protocol's dialogue over a stream."""

import socket
from collections.abc import Callable
from typing import TypeVar

from perdition.endpoint import Security
from perdition.log import Log, printable
from perdition.net.stream import DeadlineExceeded, LineLimitExceeded, Stream
from perdition.net.transport import TLSTransport
from perdition.protocol.dialogue import (
    Act,
    AwaitInput,
    Dialogue,
    LineTooLong,
    Pause,
    ReadExactly,
    ReadLine,
    StartTLS,
    Write,
)

T = TypeVar("T")

PAUSE_SECONDS = 3.0
"""Delay of the reply to a syntax error or to a failed login, in seconds."""


class DialogueRunner:
    """Performs the acts of dialogues with one peer, and logs the traffic if ``logged`` is set.

    ``peer`` is its name in the traffic log: CLIENT or REAL. ``wrap`` adds TLS to the socket, if the
    dialogue may start TLS.
    """

    def __init__(
        self,
        stream: Stream,
        peer: str,
        log: Log,
        logged: bool,
        wrap: Callable[[socket.socket], TLSTransport] | None = None,
    ) -> None:
        self.stream = stream
        self.wrap = wrap
        self.peer = peer
        self.log = log
        self.logged = logged

    async def run(self, dialogue: Dialogue[T]) -> T:
        """Perform the acts of a dialogue until it returns; return what it returns.

        Raises what the dialogue raises, PeerClosed, TLSHandshakeFailed, and TimeoutError if the
        peer is silent.
        """
        try:
            act = next(dialogue)
            while True:
                try:
                    result = await self.perform(act)
                except LineLimitExceeded:
                    act = dialogue.throw(LineTooLong())
                else:
                    act = dialogue.send(result)
        except StopIteration as end:
            outcome: T = end.value
            return outcome

    async def perform(self, act: Act) -> bytes:
        """Perform one act and return its result, b"" if it has none."""
        match act:
            case ReadLine(limit, redact):
                line = await self.stream.read_line(limit)
                self.log_traffic(self.peer, redact(line))
                return line
            case ReadExactly(count):
                data = await self.stream.read_exactly(count)
                self.log_traffic(self.peer, b"<%d bytes>" % count)
                return data
            case AwaitInput(seconds):
                if not self.stream.buffer:
                    try:
                        await self.stream.fill(seconds)
                    except DeadlineExceeded:
                        raise
                    except TimeoutError:
                        pass
                return self.stream.unread()
            case Write(data, log_as):
                await self.send(data, log_as)
            case Pause():
                await self.stream.pause(PAUSE_SECONDS)
            case StartTLS():
                assert self.wrap
                await self.stream.start_tls(self.wrap, Security.STARTTLS)
        return b""

    async def send(self, data: bytes, log_as: bytes | None = None) -> None:
        """Send bytes; the log shows ``log_as`` instead, if it is set."""
        self.log_traffic("SELF", data if log_as is None else log_as)
        await self.stream.write(data)

    def log_traffic(self, speaker: str, data: bytes) -> None:
        """Log a line that ``speaker`` sent, if ``logged`` is set."""
        if self.logged:
            text = data.decode(errors="surrogateescape").removesuffix("\r\n")
            self.log.debug(f'{speaker}: "{printable(text)}"')
