"""A connection as lines and literals, while a dialogue runs over it."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from typing import Any

from perdition.endpoint import Security
from perdition.net.loop import READ, WRITE, Handler, Loop, Task, Timer, suspend
from perdition.net.transport import (
    NOT_NOW,
    TLSHandshakeFailed,
    TLSTransport,
    WantRead,
    WantWrite,
    error_text,
)

CHUNK = 4096
NO_GREETING = (errno.ECONNRESET, "connection closed without a greeting")

TLS_HANDSHAKE = b"\x16\x03"
"""The first bytes of a TLS handshake (RFC 8446, section 5.1). No mail protocol starts a line
like that.

A client that is configured for implicit TLS would otherwise wait for us until its timeout.
"""

HALF_CLOSED_SECONDS = 5.0
"""How long a peer that has closed its sending side may wait for a reply; most have left."""


class PeerClosed(Exception):
    """The connection was closed or reset."""


class Abandoned(Exception):
    """Thrown into a task that works for a peer that has left."""


class DeadlineExceeded(TimeoutError):
    """The stream's deadline has passed, whatever the peer has sent."""


class LineLimitExceeded(Exception):
    """A line is longer than the limit. The stream cannot be read any further."""


class Stream(Handler):
    """A non-blocking socket with a read buffer, line limits, a timeout and a deadline.

    Each coroutine raises PeerClosed, TimeoutError after ``timeout`` seconds without progress, and
    DeadlineExceeded when ``deadline`` seconds have passed since the stream was made (0: no limit).
    """

    __slots__ = (
        "buffer",
        "deadline",
        "events",
        "guard",
        "half_close_timer",
        "loop",
        "security",
        "sock",
        "task",
        "timeout",
        "timer",
        "tls",
    )

    def __init__(
        self, loop: Loop, sock: socket.socket, timeout: float, deadline: float = 0
    ) -> None:
        self.loop = loop
        self.sock: socket.socket | TLSTransport = sock
        self.tls: TLSTransport | None = None
        self.timeout = timeout
        self.deadline = loop.now + deadline if deadline else inf
        self.security = Security.PLAINTEXT
        self.buffer = bytearray()
        self.events = 0
        self.task: Task | None = None
        self.guard: Task | None = None
        self.half_close_timer: Timer | None = None
        self.timer: Timer | None = None

    async def connect(self, address: Any, seconds: float, greets: bool) -> None:
        """Connect to an address; raises OSError (a TimeoutError among them).

        If the server ``greets``, its greeting is awaited as well and left in the buffer. A
        connection that is closed without a greeting counts as failed.
        """
        assert isinstance(self.sock, socket.socket)
        with suppress(BlockingIOError):
            self.sock.connect(address)
        if greets:
            try:
                await self.fill(seconds)
            except PeerClosed as error:
                raise error.__cause__ or ConnectionResetError(*NO_GREETING) from None
        else:
            await self.wait(WRITE, seconds)
            if failed := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(failed, os.strerror(failed))

    async def read_line(self, limit: int) -> bytes:
        """Return the next line without its CR LF or LF.

        Raises LineLimitExceeded if it has more than ``limit`` bytes.
        """
        if (
            self.loop.now >= self.deadline
        ):  # a line that is in the buffer already is read without a wait
            raise DeadlineExceeded
        searched = 0
        while True:
            if not self.tls and self.buffer.startswith(TLS_HANDSHAKE):
                raise TLSHandshakeFailed("received a TLS handshake, expected plain text")
            if (end := self.buffer.find(b"\n", searched)) >= 0:
                break
            searched = len(self.buffer)
            if searched > limit:
                raise LineLimitExceeded
            await self.fill(self.timeout)
        if end > limit:
            raise LineLimitExceeded
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        return line.removesuffix(b"\r")

    async def read_exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        while len(self.buffer) < count:
            await self.fill(self.timeout)
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def fill(self, seconds: float) -> None:
        """Wait for more bytes and add them to the buffer.

        It waits first: input has rarely arrived yet, and an attempt to read costs a system call.
        """
        while True:
            if not (self.tls and self.tls.pending()):
                await self.wait(READ, seconds)
            try:
                data = self.sock.recv(CHUNK)
            except NOT_NOW:
                continue
            except OSError as error:
                raise PeerClosed from error
            if not data:
                raise PeerClosed
            self.buffer += data
            return

    async def write(self, data: bytes) -> None:
        """Send all of the bytes."""
        while data:
            try:
                data = data[self.sock.send(data) :]
            except WantRead:
                await self.wait(READ, self.timeout)
            except NOT_NOW:
                await self.wait(WRITE, self.timeout)
            except OSError as error:
                raise PeerClosed from error

    async def start_tls(
        self, wrap: Callable[[socket.socket], TLSTransport], security: Security
    ) -> None:
        """Negotiate TLS; ``security`` is what the log calls it. Raises TLSHandshakeFailed.

        Bytes that were read before are discarded, because an attacker may have injected them.
        """
        assert isinstance(self.sock, socket.socket)
        self.buffer.clear()
        self.detach()  # wrapping may close the descriptor
        try:
            self.sock = self.tls = wrap(self.sock)
            while True:
                try:
                    self.tls.do_handshake()
                except WantRead:
                    await self.wait(READ, self.timeout)
                except WantWrite:
                    await self.wait(WRITE, self.timeout)
                else:
                    break
        except TimeoutError:
            raise
        except OSError as error:
            raise TLSHandshakeFailed(error_text(error)) from error
        self.security = security

    async def wait(self, events: int, seconds: float) -> None:
        """Wait until the socket is ready for one of the events; raises TimeoutError."""
        expiry = min(self.loop.now + seconds if seconds else inf, self.deadline)

        def arm(task: Task) -> Callable[[], None]:
            self.task = task
            if events != self.events:
                self.events = events
                self.loop.watch(self.sock.fileno(), events, self)
            if expiry < inf:
                self.timer = self.loop.timers.add(expiry, self.time_out)
            return self.disarm

        await suspend(arm)

    def disarm(self) -> None:
        """Cancel the wait. The socket stays watched, because another wait most likely follows."""
        self.task = None
        if self.timer:
            self.loop.timers.cancel(self.timer)
            self.timer = None

    def ready(self, events: int) -> None:
        """Continue the waiting task. If there is none, stop watching the socket."""
        if task := self.task:
            self.disarm()
            task.wake()
        elif self.guard and not self.buffer:
            self.read_ahead(self.guard)
        else:
            self.detach()

    def fail(self) -> None:
        """End the waiting task after an internal error."""
        self.detach()
        if task := self.task:
            self.disarm()
            task.wake(error=PeerClosed())

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """In a ``with`` block, raise Abandoned in the current task when the peer leaves."""
        self.guard = self.loop.current
        if self.events != READ and not self.buffer:  # WRITE is left after a write that had to wait
            self.events = READ
            self.loop.watch(self.sock.fileno(), READ, self)
        try:
            yield
        finally:
            self.guard = None
            if self.half_close_timer:
                self.loop.timers.cancel(self.half_close_timer)
                self.half_close_timer = None

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds; raises Abandoned if the peer leaves."""
        with self.guarded():
            await self.loop.sleep(seconds)

    def read_ahead(self, guard: Task) -> None:
        """Read input that arrives while a task works for the peer: more bytes, or the end.

        A peer that has closed its sending side gets only HALF_CLOSED_SECONDS more.
        """
        try:
            data = self.sock.recv(CHUNK)
        except NOT_NOW:
            return
        except OSError:
            guard.answer(error=Abandoned())
            return
        self.detach()
        self.buffer += data
        if not data:
            give_up = partial(guard.answer, error=Abandoned())
            self.half_close_timer = self.loop.call_later(HALF_CLOSED_SECONDS, give_up)

    def time_out(self) -> None:
        """Raise TimeoutError or DeadlineExceeded in the waiting task."""
        if task := self.task:
            self.disarm()
            expired = self.loop.now >= self.deadline
            task.wake(error=DeadlineExceeded() if expired else TimeoutError())

    def detach(self) -> None:
        """Stop watching the socket."""
        if self.events:
            self.events = 0
            self.loop.watch(self.sock.fileno(), 0, self)

    def send_last(self, data: bytes) -> None:
        """Send bytes before the connection is closed, if that is possible without waiting."""
        with suppress(OSError):
            self.sock.send(data)

    def hand_over(self) -> socket.socket | TLSTransport:
        """Return the connection for another handler, which watches it from now on."""
        self.events = 0
        return self.sock

    def tls_version(self) -> str:
        """Return the version of TLS, by OpenSSL's name; "" for plain text."""
        return (self.tls and self.tls.version()) or ""

    def unread(self) -> bytes:
        """Return what is left in the buffer."""
        return bytes(self.buffer)

    def close(self) -> None:
        self.detach()
        if self.tls:
            send_close_notify(self.tls)
        self.sock.close()


def send_close_notify(tls: TLSTransport) -> None:
    """Send TLS's close_notify without waiting for an answer."""
    with suppress(OSError, ValueError):
        tls.unwrap()
