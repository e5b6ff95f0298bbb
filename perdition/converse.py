"""Holds a dialogue over a stream."""

import socket
from collections.abc import Callable
from typing import TypeVar

from perdition.log import Log, printable
from perdition.net.stream import Stream
from perdition.net.wire import TLSWire
from perdition.protocol.dialogue import (
    Act,
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
"""How long a peer waits for the answer to a mistake or to a failed login."""


class Conversation:
    """One peer's side of a session, and what of it is logged.

    ``peer`` is CLIENT or REAL, as in the lines that ``connection_logging`` brings. ``wrap`` puts
    TLS over the socket, where a dialogue may ask for that.
    """

    def __init__(
        self,
        stream: Stream,
        peer: str,
        log: Log,
        logged: bool,
        wrap: Callable[[socket.socket], TLSWire] | None = None,
    ) -> None:
        self.stream = stream
        self.wrap = wrap
        self.peer = peer
        self.log = log
        self.logged = logged

    async def hold(self, dialogue: Dialogue[T]) -> T:
        """Do what the dialogue asks for until it returns; return what it returns.

        Raises what the dialogue raises, PeerClosed, TLSFailed, and TimeoutError for a peer that is
        silent.
        """
        try:
            act = next(dialogue)
            while True:
                try:
                    brought = await self.perform(act)
                except LineTooLong as mistake:
                    act = dialogue.throw(mistake)
                else:
                    act = dialogue.send(brought)
        except StopIteration as end:
            outcome: T = end.value
            return outcome

    async def perform(self, act: Act) -> bytes:
        """Do one thing, and return the octets that it brought."""
        match act:
            case ReadLine(limit, shown):
                line = await self.stream.read_line(limit)
                self.note(self.peer, shown(line))
                return line
            case ReadExactly(count):
                octets = await self.stream.read_exactly(count)
                self.note(self.peer, b"<%d octets>" % count)
                return octets
            case Write(octets, shown_octets):
                await self.say(octets, shown_octets)
            case Pause():
                await self.stream.pause(PAUSE_SECONDS)
            case StartTLS():
                assert self.wrap
                await self.stream.start_tls(self.wrap, "starttls")
        return b""

    async def say(self, octets: bytes, shown: bytes | None = None) -> None:
        """Send octets; the log shows ``shown`` in their place, if it is given."""
        self.note("SELF", octets if shown is None else shown)
        await self.stream.write(octets)

    def note(self, speaker: str, octets: bytes) -> None:
        """Log what was said, if a site wants that."""
        if self.logged:
            text = octets.decode(errors="surrogateescape").removesuffix("\r\n")
            self.log.debug(f'{speaker}: "{printable(text)}"')
