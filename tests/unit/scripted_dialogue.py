"""Dialogues held by perdition's own runner, stream and loop: bytes in, bytes out.

The connection is a socket pair. Only TLS is scripted, and no time passes in pauses.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from select import select
from typing import Any, Generic, TypeVar

from perdition.dialogue_runner import PAUSE_SECONDS, DialogueRunner
from perdition.log import Log
from perdition.net.loop import TICK, Loop
from perdition.net.stream import Stream
from perdition.net.transport import TLSError
from perdition.protocol.base import Protocol
from perdition.protocol.dialogue import Accepted, Credentials, Dialogue, LoginOffer, StartTLSPolicy
from tests.unit.recorded_log import RecordedLog

T = TypeVar("T")

PIECE = 65536
"""Bytes that are sent at once, at most."""


def has_unread(sock: socket.socket) -> bool:
    """Tell whether bytes wait in a socket."""
    readable, _, _ = select([sock], [], [], 0)
    return bool(readable)


class ScriptedTLS:
    """Stands for TLS over a socket: the handshake succeeds at once, and bytes stay as they are.

    As with OpenSSL, the handshake fails if unread plain text is in the socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fileno = sock.fileno
        self.recv = sock.recv
        self.recv_into = sock.recv_into
        self.send = sock.send
        self.close = sock.close

    def do_handshake(self) -> None:
        if has_unread(self.sock):
            raise TLSError("plain text instead of a handshake")

    def pending(self) -> int:
        return 0

    def unwrap(self) -> None:
        pass

    def version(self) -> str:
        return "TLSv1.3"


class DialogueUnderTest(Generic[T]):
    """A dialogue, the peer that a test plays for it, and what it has done so far.

    ``sent`` is what the peer got, ``logged`` what ``connection_logging`` wrote.
    """

    def __init__(self, loop: Loop, dialogue: Dialogue[T]) -> None:
        self.sent = b""
        self.pauses = 0
        self._loop = loop
        self._outcomes: list[T] = []
        self._failure: Exception | None = None
        self._unsent = bytearray()
        self._passed_on = 0
        self._tls_starts: list[int] = []
        self._sock, self._peer = socket.socketpair()
        for end in (self._sock, self._peer):
            end.setblocking(False)
        self._stream = Stream(loop, self._sock, timeout=0)
        sink = RecordedLog()
        self.logged = sink.lines
        log = Log("perdition", sink, debug=True)
        self._runner = DialogueRunner(self._stream, "PEER", log, logged=True, wrap=self._wrap)
        self._task = loop.spawn(self._hold(dialogue))

    def receive(self, data: bytes) -> DialogueUnderTest[T]:
        """Have the peer send bytes until the dialogue waits for more or ends.

        Raises what the dialogue raises.
        """
        self._unsent += data
        self._settle()
        while self.waits_for_more and (self._unsent or has_unread(self._sock)):
            with suppress(BlockingIOError):
                del self._unsent[: self._peer.send(self._unsent[:PIECE])]
            self._loop.call_soon_from_thread(self._loop.stop)
            self._loop.run()
            self._settle()
        if self._failure:
            raise self._failure
        return self

    def wait(self, seconds: float) -> DialogueUnderTest[T]:
        """Let time pass in which the peer sends nothing."""
        while timer := self._loop.timers.pop(self._loop.now + seconds + TICK):
            timer.action()
        self._settle()
        return self

    @property
    def outcome(self) -> T:
        """What the dialogue returned."""
        assert self._outcomes, f"the dialogue has not returned; so far it sent {self.sent!r}"
        return self._outcomes[0]

    @property
    def waits_for_more(self) -> bool:
        return not (self._outcomes or self._failure)

    @property
    def unread(self) -> bytes:
        """What the peer sent and the dialogue did not use."""
        waiting = b""
        with suppress(BlockingIOError):
            waiting = self._sock.recv(PIECE, socket.MSG_PEEK)
        return self._stream.unread() + waiting + bytes(self._unsent)

    @property
    def buffered(self) -> int:
        """How many bytes perdition has read and not used."""
        return len(self._stream.unread())

    @property
    def lines(self) -> list[bytes]:
        """What was sent, without the line ends that each line must have."""
        *lines, rest = self.sent.split(b"\r\n")
        assert not rest, f"{rest!r} has no line end in {self.sent!r}"
        return lines

    @property
    def answers(self) -> list[bytes]:
        """The first word of each line that was sent."""
        return [line.partition(b" ")[0] for line in self.lines]

    @property
    def upgrades(self) -> int:
        """How often TLS was negotiated."""
        return len(self._tls_starts)

    def new_output(self) -> bytes:
        """What was sent since the last call, up to the next start of TLS."""
        start = self._passed_on
        later = (position for position in self._tls_starts if position > start)
        self._passed_on = next(later, len(self.sent))
        return self.sent[start : self._passed_on]

    def close(self) -> None:
        self._task.cancel()
        self._stream.close()
        self._sock.close()
        self._peer.close()

    async def _hold(self, dialogue: Dialogue[T]) -> None:
        try:
            self._outcomes.append(await self._runner.run(dialogue))
        except Exception as failure:  # noqa: BLE001 - the test gets it from receive()
            self._failure = failure

    def _wrap(self, sock: socket.socket) -> ScriptedTLS:
        self._read_output()
        self._tls_starts.append(len(self.sent))
        return ScriptedTLS(sock)

    def _settle(self) -> None:
        """Read what the dialogue sent, and end its pauses at once; their length must be right."""
        self._read_output()
        while True:
            assert not self._loop.timers.pop(self._loop.now + PAUSE_SECONDS - TICK), "short pause"
            timer = self._loop.timers.pop(self._loop.now + PAUSE_SECONDS + 2 * TICK)
            if not timer:
                break
            self.pauses += 1
            timer.action()
            self._read_output()

    def _read_output(self) -> None:
        with suppress(BlockingIOError):
            while data := self._peer.recv(PIECE):
                self.sent += data


class DialogueStarter:
    """Starts dialogues on a loop, and closes their connections in the end."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.started = ExitStack()

    def __call__(self, dialogue: Dialogue[T], received: bytes = b"") -> DialogueUnderTest[T]:
        """Start a dialogue whose peer sends bytes; raises what the dialogue raises."""
        started = DialogueUnderTest(self.loop, dialogue)
        self.started.callback(started.close)
        return started.receive(received)

    def close(self) -> None:
        self.started.close()


class ProtocolUnderTest:
    """The two dialogues of a protocol, with the offer and the user that most of its tests have."""

    def __init__(
        self,
        start: DialogueStarter,
        protocol: Protocol,
        offer: LoginOffer,
        credentials: Credentials,
    ) -> None:
        self.start = start
        self.protocol = protocol
        self.offer = offer
        self.credentials = credentials

    def client(
        self, received: bytes, offer: LoginOffer | None = None
    ) -> DialogueUnderTest[Credentials | None]:
        """The dialogue with a client that sends bytes."""
        return self.start(self.protocol.client_dialogue(offer or self.offer, self.offer), received)

    def login(
        self,
        received: bytes = b"",
        start_tls: StartTLSPolicy = StartTLSPolicy.NEVER,
        credentials: Credentials | None = None,
    ) -> DialogueUnderTest[Accepted]:
        """The dialogue with a real server that sends bytes."""
        own_greeting = self.protocol.own_greeting("proxy.example")
        login = self.protocol.server_dialogue(
            credentials or self.credentials, own_greeting, start_tls
        )
        return self.start(login, received)


def relay(one: DialogueUnderTest[Any], other: DialogueUnderTest[Any]) -> None:
    """Pass on what each of two dialogues sends to the other, until neither sends more."""
    while (data := one.new_output()) or (reply := other.new_output()):
        if data:
            other.receive(data)
        else:
            one.receive(reply)
