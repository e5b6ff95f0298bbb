"""An established session: forwards bytes in both directions until it ends or is idle too long."""

import fcntl
import os
import re
import socket
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import cast

from perdition.net.loop import READ, WRITE, Handler, Loop, Timer
from perdition.net.stream import send_close_notify
from perdition.net.transport import NOT_NOW, TLSTransport, Transport

BUFFER = memoryview(bytearray(65536))
"""Shared by all sessions of the process: an idle session needs no memory for one."""
BULK_PIPE_SIZE = 262144
"""Capacity in bytes of a pipe for bulk transfers."""
RECORD_SIZE = 16384
"""Maximum number of bytes in a TLS record (RFC 8446, section 5.1)."""
BULK_ROUNDS = 4
"""How often one session may fill its pipe before other sessions get their turn."""
UNREAD_ROUNDS = 16
"""Maximum number of buffers of unread bytes that are discarded before a connection is closed."""
TAIL_SIZE = 128
"""How many of the last bytes sent are kept, to recognise the end of a response."""
SPARE_PIPES = 16
"""Maximum number of empty pipes that are kept for reuse."""

Pipe = tuple[int, int]
Total = memoryview | list[int]
"""A counter of bytes in one direction, shared by all sessions."""

spare_pipes: list[Pipe] = []


def tls_of(transport: Transport) -> TLSTransport | None:
    """Return the connection if it uses TLS."""
    return None if type(transport) is socket.socket else cast(TLSTransport, transport)


def borrow_pipe() -> Pipe:
    """Return an empty pipe; raises OSError."""
    if spare_pipes:
        return spare_pipes.pop()
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, BULK_PIPE_SIZE)
    return pipe


def return_pipe(pipe: Pipe, empty: bool) -> None:
    """Keep an empty pipe for reuse, up to SPARE_PIPES; close any other."""
    if empty and len(spare_pipes) < SPARE_PIPES:
        spare_pipes.append(pipe)
    else:
        os.close(pipe[0])
        os.close(pipe[1])


class ConnectionBroken(Exception):
    """One of the session's connections was reset or failed."""

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self.transport = transport


class Flow(Handler):
    """One direction of a session, and the handler of the socket that it reads from.

    What the sink does not accept at once is held in ``held`` or (in bulk transfers) in ``pipe``,
    and nothing more is read until it has been sent (back-pressure). ``transferred`` counts
    what the sink has accepted, except for the first ``uncounted`` bytes.
    """

    __slots__ = (
        "closed",
        "ended",
        "held",
        "pipe",
        "piped",
        "sink",
        "source",
        "source_tls",
        "splice",
        "total",
        "transferred",
        "uncounted",
    )

    def __init__(self, splice: "Splice", source: Transport, sink: Transport, total: Total) -> None:
        self.splice = splice
        self.source = source
        self.source_tls = tls_of(source)
        self.sink = sink
        self.held = b""
        self.pipe: Pipe | None = None
        self.piped = 0
        self.transferred = 0
        self.uncounted = 0
        self.total = total
        self.ended = False
        self.closed = False

    @property
    def blocked(self) -> bool:
        """Whether bytes are held until the sink accepts them."""
        return bool(self.held or self.piped)

    def ready(self, events: int) -> None:
        """Forward what can be forwarded to and from our source, in both directions."""
        if self.closed:
            return  # closed by an earlier event of the same batch
        splice = self.splice
        splice.last = splice.loop.now
        try:
            if events & WRITE:
                splice.opposite(self).flush()
            if events & READ and not (self.ended or self.held or self.piped):
                self.move()
        except ConnectionBroken as broken:
            splice.handle_broken(broken.transport)

    def fail(self) -> None:
        """End the session after an internal error."""
        if not self.closed:
            self.splice.close()

    def count(self, size: int) -> None:
        """Count bytes that the sink has accepted."""
        if self.uncounted:
            skipped = min(self.uncounted, size)
            self.uncounted -= skipped
            size -= skipped
        self.transferred += size
        self.total[0] += size

    def move(self) -> None:
        """Forward what has arrived: one buffer and, if that was full, the rest in bulk."""
        if self.source_tls:
            self.move_records()
            return
        try:
            count = self.source.recv_into(BUFFER)
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionBroken(self.source) from error
        if not count:
            self.handle_end()
            return
        self.send(BUFFER[:count])
        if count == len(BUFFER) and not self.held and not tls_of(self.sink):
            self.move_in_bulk()

    def move_records(self) -> None:
        """Forward what has arrived over TLS: as many records as certainly fit in the buffer."""
        filled = 0
        ended = False
        try:
            while filled + RECORD_SIZE <= len(BUFFER):
                count = self.source.recv_into(BUFFER[filled:])
                if not count:
                    ended = True
                    break
                filled += count
        except NOT_NOW:
            pass
        except OSError as error:
            raise ConnectionBroken(self.source) from error
        if filled:
            self.send(BUFFER[:filled])
        if ended:
            self.handle_end()

    def send(self, data: memoryview) -> None:
        """Send as much as the sink accepts, and hold the rest."""
        if self.held:
            self.held += data
            return
        try:
            sent = self.sink.send(data)
        except NOT_NOW:
            sent = 0
        except OSError as error:
            raise ConnectionBroken(self.sink) from error
        self.count(sent)
        if sent < len(data):
            self.held = bytes(data[sent:])
            self.splice.watch()

    def move_in_bulk(self) -> None:
        """Forward bytes through a pipe, inside the kernel."""
        try:
            self.pipe = borrow_pipe()
        except OSError:
            return  # out of descriptors: continue with the buffer
        for _ in range(BULK_ROUNDS):
            try:
                count = os.splice(self.source.fileno(), self.pipe[1], BULK_PIPE_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                raise ConnectionBroken(self.source) from error
            if not count:
                break  # end of file, which the next read reports
            self.piped += count
            if not self.drain_pipe():
                self.splice.watch()
                return
        self.release_pipe()

    def drain_pipe(self) -> bool:
        """Move the pipe's bytes to the sink; return whether the pipe is empty now."""
        assert self.pipe
        while self.piped:
            try:
                sent = os.splice(self.pipe[0], self.sink.fileno(), self.piped)
            except BlockingIOError:
                return False
            except OSError as error:
                raise ConnectionBroken(self.sink) from error
            self.piped -= sent
            self.count(sent)
        return True

    def release_pipe(self) -> None:
        """Return the pipe for reuse."""
        if self.pipe:
            return_pipe(self.pipe, empty=not self.piped)
            self.pipe = None
            self.piped = 0

    def discard(self) -> None:
        """Stop forwarding, and discard what is held."""
        self.ended = True
        self.held = b""
        self.release_pipe()

    def close(self) -> None:
        """Close the source, and drop the reference to the splice, which would form a cycle."""
        self.closed = True
        self.discard()
        if self.source_tls:
            send_close_notify(self.source_tls)
        self.source.close()
        del self.splice

    def flush(self) -> None:
        """Send what is held, because the sink accepts more now."""
        if self.piped and self.drain_pipe():
            self.release_pipe()
        if self.held:
            held, self.held = self.held, b""
            self.send(memoryview(held))
        if self.blocked:
            return
        splice = self.splice
        if self.ended:
            self.forward_end()
        else:
            self.move_pending()
        splice.watch()

    def move_pending(self) -> None:
        """Forward what TLS has already decrypted, which no selector reports."""
        if self.source_tls and not (self.blocked or self.closed):
            self.move_records()

    def handle_end(self) -> None:
        """Handle the end of file from the source."""
        splice = self.splice
        self.ended = True
        if not self.blocked:
            self.forward_end()
        splice.watch()

    def forward_end(self) -> None:
        """Forward the end of file.

        A client that has closed its sending side may still wait for a reply, but TLS to the real
        server has no half-close. The end of file from the real server ends the session, because
        whatever the client sends after it cannot be delivered.
        """
        if self is self.splice.down or tls_of(self.sink):
            self.splice.close()
            return
        try:
            cast(socket.socket, self.sink).shutdown(socket.SHUT_WR)
        except OSError as error:
            raise ConnectionBroken(self.sink) from error


class DownFlow(Flow):
    """The flow to the client. ``tail`` is the end of what was sent last, b"" if that is unknown."""

    __slots__ = ("tail",)

    def __init__(self, splice: "Splice", source: Transport, sink: Transport, total: Total) -> None:
        super().__init__(splice, source, sink, total)
        self.tail = b""

    def send(self, data: memoryview) -> None:
        self.tail = bytes(data[-TAIL_SIZE:])
        Flow.send(self, data)  # super() costs more, for each buffer

    def move_in_bulk(self) -> None:
        self.tail = b""
        super().move_in_bulk()


class Splice(ABC):
    """A session after its login: two connections, both directions, and an idle timeout.

    ``timeout`` is in seconds (0: none). ``totals`` count what clients and real servers send.
    """

    __slots__ = ("client", "closed", "down", "last", "loop", "server", "timeout", "timer", "up")

    def __init__(
        self,
        loop: Loop,
        client: Transport,
        server: Transport,
        timeout: float,
        totals: tuple[Total, Total],
    ) -> None:
        self.loop = loop
        self.client = client
        self.server = server
        self.timeout = timeout
        self.up = Flow(self, client, server, totals[0])
        self.down = DownFlow(self, server, client, totals[1])
        self.closed = False
        self.last = loop.now
        self.timer: Timer | None = None

    @abstractmethod
    def on_idle_timeout(self) -> None:
        """Called before the session is closed because of the idle timeout."""

    @abstractmethod
    def on_shutdown(self) -> None:
        """Called before the session is closed because perdition stops."""

    @abstractmethod
    def on_closed(self) -> None:
        """Called once, after the connections have been closed."""

    def start(self, welcome: bytes, from_client: bytes, from_server: bytes) -> None:
        """Send the client its welcome, and each side what the login dialogues have left unused.

        From then on bytes are forwarded until the end. The welcome is not counted.
        """
        if self.timeout:
            self.timer = self.loop.call_later(self.timeout, self.check_idle)
        try:
            self.down.uncounted = len(welcome)
            self.down.send(memoryview(welcome))
            self.down.tail = welcome
            if from_server:
                self.down.send(memoryview(from_server))
            if from_client:
                self.up.send(memoryview(from_client))
            for flow in (self.up, self.down):
                flow.move_pending()
            self.watch()
        except ConnectionBroken as broken:
            self.handle_broken(broken.transport)
        except Exception as error:  # noqa: BLE001 - the caller no longer owns the connections
            self.close()
            self.loop.on_error(error)

    def opposite(self, flow: Flow) -> Flow:
        """Return the opposite direction."""
        return self.down if flow is self.up else self.up

    def watch(self) -> None:
        """Watch each socket for the events that can be handled now."""
        if self.closed:
            return
        for flow, other in ((self.up, self.down), (self.down, self.up)):
            read = 0 if flow.ended or flow.blocked else READ
            write = WRITE if other.blocked else 0
            self.loop.watch(flow.source.fileno(), read | write, flow)

    def check_idle(self) -> None:
        """Close the session if nothing was forwarded for ``timeout`` seconds."""
        idle = self.loop.now - self.last
        if idle >= self.timeout:
            self.on_idle_timeout()
            self.close()
        else:
            self.timer = self.loop.call_later(self.timeout - idle, self.check_idle)

    def send_notice(self, notice: bytes, response_end: re.Pattern[bytes]) -> None:
        """Send the client a last notice, unless it could end up in the middle of a response.

        ``response_end`` matches the end of a complete response. It matches what precedes the line
        only if it begins with a line end.
        """
        tail = self.down.tail
        if len(tail) == TAIL_SIZE:  # it may begin in the middle of a line
            tail = tail[tail.find(b"\n") :]
        if notice and not self.down.blocked and response_end.search(tail):
            with suppress(ConnectionBroken):
                self.down.send(memoryview(notice))

    def shut_down(self) -> None:
        """End the session because perdition stops."""
        self.on_shutdown()
        self.close()

    def handle_broken(self, broken: Transport) -> None:
        """Handle a broken connection.

        A real server may have sent a reason before it left; the client still receives that.
        """
        if broken is self.client or self.down.ended:
            self.close()
            return
        self.up.discard()
        try:
            if not self.down.blocked:
                self.down.move()
            self.watch()
        except ConnectionBroken:
            self.close()

    def close(self) -> None:
        """End the session now and discard what is still held."""
        if self.closed:
            return
        self.closed = True
        if self.timer:
            self.loop.timers.cancel(self.timer)
            self.timer = None
        with suppress(OSError):
            # With unread bytes the system would reset the connection, and the client could lose
            # what it has not read yet.
            for _ in range(UNREAD_ROUNDS):
                if not self.client.recv_into(BUFFER):
                    break
        for flow in (self.up, self.down):
            self.loop.watch(flow.source.fileno(), 0, flow)
            flow.close()
        self.on_closed()
