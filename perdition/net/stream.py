"""A connection as lines and literals, for the time of its dialogue."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from perdition.net.loop import READ, WRITE, Loop, Task, Timer, suspend
from perdition.net.wire import NOT_NOW, TLSFailed, TLSWire, WantRead, WantWrite, reason
from perdition.protocol.dialogue import LineTooLong

CHUNK = 4096
CLOSED_AT_ONCE = (errno.ECONNRESET, "it closes the connection at once")
TLS_HANDSHAKE = b"\x16\x03"
"""What a TLS client begins with, and no line of a mail protocol."""


HALF_CLOSED_SECONDS = 5.0
"""How long a peer that will say no more may wait for its answer: most of them have left."""


class PeerClosed(Exception):
    """The peer has ended the connection, or the network has."""


class Abandoned(Exception):
    """Thrown into a task that works for a peer who has left."""


class Stream:
    """A non-blocking socket, read with a limit and a time limit.

    Each method raises PeerClosed, and TimeoutError after ``seconds`` without progress (0: never).
    """

    __slots__ = (
        "buffer",
        "events",
        "guard",
        "last_call",
        "loop",
        "seconds",
        "secure",
        "sock",
        "task",
        "timer",
        "tls",
    )

    def __init__(self, loop: Loop, sock: socket.socket, seconds: float) -> None:
        self.loop = loop
        self.sock: socket.socket | TLSWire = sock
        self.tls: TLSWire | None = None
        self.seconds = seconds
        self.secure = "plaintext"
        self.buffer = bytearray()
        self.events = 0
        self.task: Task | None = None
        self.guard: Task | None = None
        self.last_call: Timer | None = None
        self.timer: Timer | None = None

    async def connect(self, address: Any, seconds: float, greets: bool) -> None:
        """Connect to an address; raises OSError (a TimeoutError among them).

        A server that ``greets`` need not be asked whether it is there: its greeting tells, and is
        then in the buffer. One that closes the connection without a word is not there either.
        """
        assert isinstance(self.sock, socket.socket)
        with suppress(BlockingIOError):
            self.sock.connect(address)
        if greets:
            try:
                await self.fill(seconds)
            except PeerClosed as error:
                raise error.__cause__ or ConnectionResetError(*CLOSED_AT_ONCE) from None
        else:
            await self.wait(WRITE, seconds)
            if failed := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(failed, os.strerror(failed))

    async def read_line(self, limit: int) -> bytes:
        """Return the next line without its CR LF or LF.

        Raises LineTooLong when it has more than ``limit`` octets; the stream is then unusable.
        """
        searched = 0
        while True:
            if not self.tls and self.buffer.startswith(TLS_HANDSHAKE):
                raise TLSFailed("the peer speaks TLS where plain text is expected")
            if (end := self.buffer.find(b"\n", searched)) >= 0:
                break
            searched = len(self.buffer)
            if searched > limit:
                raise LineTooLong
            await self.fill(self.seconds)
        if end > limit:
            raise LineTooLong
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        return line.removesuffix(b"\r")

    async def read_exactly(self, count: int) -> bytes:
        """Return the next ``count`` octets."""
        while len(self.buffer) < count:
            await self.fill(self.seconds)
        octets = bytes(self.buffer[:count])
        del self.buffer[:count]
        return octets

    async def fill(self, seconds: float) -> None:
        """Wait for more octets and put them into the buffer.

        It waits before it reads: a peer has seldom answered already, and asking costs a call.
        """
        while True:
            if not (self.tls and self.tls.pending()):
                await self.wait(READ, seconds)
            try:
                octets = self.sock.recv(CHUNK)
            except NOT_NOW:
                continue
            except OSError as error:
                raise PeerClosed from error
            if not octets:
                raise PeerClosed
            self.buffer += octets
            return

    async def write(self, octets: bytes) -> None:
        """Send all of the octets."""
        while octets:
            try:
                octets = octets[self.sock.send(octets) :]
            except WantRead:
                await self.wait(READ, self.seconds)
            except NOT_NOW:
                await self.wait(WRITE, self.seconds)
            except OSError as error:
                raise PeerClosed from error

    async def start_tls(self, wrap: Callable[[socket.socket], TLSWire], secure: str) -> None:
        """Negotiate TLS; ``secure`` is what the log calls it. Raises TLSFailed.

        What was read before came from who knows whom, and is thrown away.
        """
        assert isinstance(self.sock, socket.socket)
        self.buffer.clear()
        self.detach()  # the descriptor changes hands, and may be closed on the way
        try:
            self.sock = self.tls = wrap(self.sock)
            while True:
                try:
                    self.tls.do_handshake()
                except WantRead:
                    await self.wait(READ, self.seconds)
                except WantWrite:
                    await self.wait(WRITE, self.seconds)
                else:
                    break
        except TimeoutError:
            raise
        except OSError as error:
            raise TLSFailed(reason(error)) from error
        self.secure = secure

    async def wait(self, events: int, seconds: float) -> None:
        """Wait until the socket is ready for one of the events; raises TimeoutError."""

        def arm(task: Task) -> Callable[[], None]:
            self.task = task
            if events != self.events:
                self.events = events
                self.loop.watch(self.sock.fileno(), events, self)
            if seconds:
                self.timer = self.loop.call_later(seconds, self.late)
            return self.disarm

        await suspend(arm)

    def disarm(self) -> None:
        """Wait no longer. The socket stays watched: most likely it will be waited for again."""
        self.task = None
        if self.timer:
            self.loop.timers.cancel(self.timer)
            self.timer = None

    def ready(self, events: int) -> None:
        """Wake the task that waits; if none does, stop watching until one will."""
        if task := self.task:
            self.disarm()
            task.wake()
        elif self.guard and not self.buffer:
            self.read_ahead(self.guard)
        else:
            self.detach()

    def fail(self) -> None:
        """End the task that waits, after a fault of ours."""
        self.detach()
        if task := self.task:
            self.disarm()
            task.wake(error=PeerClosed())

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Have the current task given up with Abandoned if the peer leaves meanwhile."""
        self.guard = self.loop.current
        if not (self.events or self.buffer):
            self.events = READ
            self.loop.watch(self.sock.fileno(), READ, self)
        try:
            yield
        finally:
            self.guard = None
            if self.last_call:
                self.loop.timers.cancel(self.last_call)
                self.last_call = None

    async def pause(self, seconds: float) -> None:
        """Let the peer wait; raises Abandoned if it does not."""
        with self.guarded():
            await self.loop.sleep(seconds)

    def read_ahead(self, guard: Task) -> None:
        """See what a peer has to say that was not asked anything: more, or that it leaves.

        One that has only ended what it says is still there, but not for long.
        """
        try:
            octets = self.sock.recv(CHUNK)
        except NOT_NOW:
            return
        except OSError:
            guard.answer(error=Abandoned())
            return
        self.detach()
        self.buffer += octets
        if not octets:
            give_up = partial(guard.answer, error=Abandoned())
            self.last_call = self.loop.call_later(HALF_CLOSED_SECONDS, give_up)

    def late(self) -> None:
        """Tell the task that its time is over."""
        if task := self.task:
            self.disarm()
            task.wake(error=TimeoutError())

    def detach(self) -> None:
        """Stop watching the socket."""
        if self.events:
            self.events = 0
            self.loop.watch(self.sock.fileno(), 0, self)

    def send_last(self, octets: bytes) -> None:
        """Send something to a peer that is about to be closed, if it takes it at once."""
        with suppress(OSError):
            self.sock.send(octets)

    def hand_over(self) -> socket.socket | TLSWire:
        """Return the connection to its next owner, who watches it from now on."""
        self.events = 0
        return self.sock

    def tls_version(self) -> str:
        """Return the version of TLS, by OpenSSL's name; "" for plain text."""
        return (self.tls and self.tls.version()) or ""

    def leftover(self) -> bytes:
        """Return what was read and not used."""
        return bytes(self.buffer)

    def close(self) -> None:
        """Close the connection."""
        self.detach()
        if self.tls:
            say_end(self.tls)
        self.sock.close()


def say_end(tls: TLSWire) -> None:
    """Tell a peer that nothing more will come; it need not answer."""
    with suppress(OSError, ValueError):
        tls.unwrap()
