"""An established session: bytes in both directions, until it ends or idles too long."""

import fcntl
import os
import socket
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import cast

from perdition.net.loop import READ, WRITE, Handler, Loop, Timer
from perdition.net.stream import send_close_notify
from perdition.net.transport import NOT_NOW, TLSTransport

BUFFER = memoryview(bytearray(65536))
"""One for the whole process: an idle session owns none."""
PIPE_SIZE = 262144
"""Octets that a pipe holds in a bulk transfer."""
RECORD_SIZE = 16384
"""Octets that a TLS record holds at the most (RFC 8446, section 5.1)."""
BULK_ROUNDS = 4
"""Pipes full that one session may move before the others have their turn."""
UNREAD_ROUNDS = 16
"""Buffers full of what nobody will get any more that are read before a connection is closed."""
SPARE_PIPES = 16
"""Empty pipes that are kept."""

Pipe = tuple[int, int]
Total = memoryview | list[int]
"""A cell that all sessions add what they move in a direction to."""
Connection = socket.socket | TLSTransport

spare_pipes: list[Pipe] = []


def tls_of(connection: Connection) -> TLSTransport | None:
    """Return a connection if it is one with TLS."""
    return None if type(connection) is socket.socket else cast(TLSTransport, connection)


def borrow_pipe() -> Pipe:
    """Return an empty pipe."""
    if spare_pipes:
        return spare_pipes.pop()
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return pipe


def return_pipe(pipe: Pipe, empty: bool) -> None:
    """Keep an empty pipe for the next who needs one, if there are not enough already."""
    if empty and len(spare_pipes) < SPARE_PIPES:
        spare_pipes.append(pipe)
    else:
        os.close(pipe[0])
        os.close(pipe[1])


class Broken(Exception):
    """A connection of a session has broken, and this is the one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection


class Way(Handler):
    """One direction of a session, and the handler of the socket that it comes from.

    What the sink does not take at once is held, in ``held`` or (in bulk) in ``pipe``, and nothing
    more is read until it is gone.
    """

    __slots__ = ("ended", "held", "octets", "pipe", "piped", "sink", "source", "splice", "total")

    def __init__(
        self, splice: "Splice", source: Connection, sink: Connection, total: Total
    ) -> None:
        self.splice = splice
        self.source = source
        self.sink = sink
        self.held = b""
        self.pipe: Pipe | None = None
        self.piped = 0
        self.octets = 0
        self.total = total
        self.ended = False

    @property
    def blocked(self) -> bool:
        """Whether the sink has yet to take something."""
        return bool(self.held or self.piped)

    def ready(self, events: int) -> None:
        """Move what can be moved, to and from the socket that is our source."""
        splice = self.splice
        if splice.closed:
            return  # by an earlier event of the same batch
        splice.last = splice.loop.now
        try:
            if events & WRITE:
                splice.opposite(self).flush()
            if events & READ and not (self.ended or self.blocked or splice.closed):
                self.move()
        except Broken as broken:
            splice.break_off(broken.connection)

    def fail(self) -> None:
        """End the session, after a fault of ours."""
        self.splice.close()

    def count(self, octets: int) -> None:
        """Count what has come from the source."""
        self.octets += octets
        self.total[0] += octets

    def move(self) -> None:
        """Move what has arrived: a buffer full, and in bulk if that was not all."""
        if tls_of(self.source):
            self.move_records()
            return
        try:
            count = self.source.recv_into(BUFFER)
        except BlockingIOError:
            return
        except OSError as error:
            raise Broken(self.source) from error
        if not count:
            self.end()
            return
        self.count(count)
        self.send(BUFFER[:count])
        if count == len(BUFFER) and not self.held and not tls_of(self.sink):
            self.move_bulk()

    def move_records(self) -> None:
        """Move what has arrived by TLS: as many records as the buffer is sure to have room for."""
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
            raise Broken(self.source) from error
        self.count(filled)
        if filled:
            self.send(BUFFER[:filled])
        if ended:
            self.end()

    def put(self, octets: bytes) -> None:
        """Send what the dialogue has read too much."""
        self.count(len(octets))
        self.send(memoryview(octets))

    def send(self, octets: memoryview) -> None:
        """Send what the sink takes, and hold the rest."""
        if self.held:
            self.held += octets
            return
        try:
            sent = self.sink.send(octets)
        except NOT_NOW:
            sent = 0
        except OSError as error:
            self.octets -= len(octets)
            raise Broken(self.sink) from error
        if sent < len(octets):
            self.held = bytes(octets[sent:])
            self.splice.watch()

    def move_bulk(self) -> None:
        """Move octets through a pipe, inside the kernel."""
        try:
            self.pipe = borrow_pipe()
        except OSError:
            return  # out of descriptors: the buffer will do
        for _ in range(BULK_ROUNDS):
            try:
                count = os.splice(self.source.fileno(), self.pipe[1], PIPE_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                raise Broken(self.source) from error
            if not count:
                break  # the end: the next read will tell
            self.count(count)
            self.piped += count
            if not self.drain():
                self.splice.watch()
                return
        self.release_pipe()

    def drain(self) -> bool:
        """Move the pipe's octets to the sink; tell whether it took all."""
        assert self.pipe
        while self.piped:
            try:
                self.piped -= os.splice(self.pipe[0], self.sink.fileno(), self.piped)
            except BlockingIOError:
                return False
            except OSError as error:
                raise Broken(self.sink) from error
        return True

    def release_pipe(self) -> None:
        """Give the pipe back."""
        if self.pipe:
            return_pipe(self.pipe, empty=not self.piped)
            self.pipe = None
            self.piped = 0

    def give_up(self) -> None:
        """Move no more. What the sink has not taken does not count as moved."""
        self.ended = True
        self.octets -= len(self.held) + self.piped
        self.held = b""
        self.release_pipe()

    def flush(self) -> None:
        """Send what is held, now that the sink takes more."""
        if self.piped and self.drain():
            self.release_pipe()
        if self.held:
            held, self.held = self.held, b""
            self.send(memoryview(held))
        if not self.blocked:
            if self.ended:
                self.pass_end_on()
            else:
                self.move_hidden()
            self.splice.watch()

    def move_hidden(self) -> None:
        """Move what TLS has decrypted already, which no selector sees."""
        if tls_of(self.source) and not (self.blocked or self.splice.closed):
            self.move_records()

    def end(self) -> None:
        """The source sends no more."""
        self.ended = True
        if not self.blocked:
            self.pass_end_on()
        self.splice.watch()

    def pass_end_on(self) -> None:
        """Tell the sink that no more will come.

        A client that has said all may still await its answer, unless TLS to the real server
        cannot tell that one so. A real server that has answered for the last time ends the
        session: what a client says now reaches nobody.
        """
        if self is self.splice.down or tls_of(self.sink):
            self.splice.close()
            return
        try:
            cast(socket.socket, self.sink).shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Broken(self.sink) from error


class Splice(ABC):
    """A session after its login: two connections, two ways, and a limit to idleness.

    ``timeout`` is in seconds (0: none). ``totals`` are those of what clients and real servers send.
    """

    __slots__ = ("client", "closed", "down", "last", "loop", "server", "timeout", "timer", "up")

    def __init__(
        self,
        loop: Loop,
        client: Connection,
        server: Connection,
        timeout: float,
        totals: tuple[Total, Total],
    ) -> None:
        self.loop = loop
        self.client = client
        self.server = server
        self.timeout = timeout
        self.up = Way(self, client, server, totals[0])
        self.down = Way(self, server, client, totals[1])
        self.closed = False
        self.last = loop.now
        self.timer: Timer | None = None

    @abstractmethod
    def note_idle(self) -> None:
        """Do what is to be done before the session is closed for its idleness."""

    @abstractmethod
    def note_end(self) -> None:
        """Do what is to be done once the connections are closed; called once."""

    def start(self, welcome: bytes, from_client: bytes, from_server: bytes) -> None:
        """Send the client its welcome and both sides what the dialogues have read too much.

        From then on bytes move until the end. The welcome does not count among them.
        """
        if self.timeout:
            self.timer = self.loop.call_later(self.timeout, self.check_idle)
        try:
            self.down.send(memoryview(welcome))
            if from_server:
                self.down.put(from_server)
            if from_client:
                self.up.put(from_client)
            for way in (self.up, self.down):
                way.move_hidden()
            self.watch()
        except Broken as broken:
            self.break_off(broken.connection)

    def opposite(self, way: Way) -> Way:
        """Return the way that goes the other way."""
        return self.down if way is self.up else self.up

    def watch(self) -> None:
        """Watch each socket for what can be done with it now."""
        if self.closed:
            return
        for way, other in ((self.up, self.down), (self.down, self.up)):
            read = 0 if way.ended or way.blocked else READ
            write = WRITE if other.blocked else 0
            self.loop.watch(way.source.fileno(), read | write, way)

    def check_idle(self) -> None:
        """Close the session if nothing has moved for too long."""
        idle = self.loop.now - self.last
        if idle >= self.timeout:
            self.note_idle()
            self.close()
        else:
            self.timer = self.loop.call_later(self.timeout - idle, self.check_idle)

    def send_last(self, octets: bytes) -> None:
        """Tell the client something, if it can be told at once and in its place."""
        if not self.down.blocked:
            with suppress(OSError):
                self.client.send(octets)

    def break_off(self, broken: Connection) -> None:
        """Deal with a connection that has broken.

        A real server may have said why before it left: the client still gets that.
        """
        if broken is self.client or self.down.ended:
            self.close()
            return
        self.up.give_up()
        try:
            if not self.down.blocked:
                self.down.move()
            self.watch()
        except Broken:
            self.close()

    def close(self) -> None:
        """End the session now, whatever is still under way."""
        if self.closed:
            return
        self.closed = True
        if self.timer:
            self.loop.timers.cancel(self.timer)
        with suppress(OSError):
            # Octets left unread would make the system reset the connection, and with it what the
            # client has yet to read.
            for _ in range(UNREAD_ROUNDS):
                if not self.client.recv_into(BUFFER):
                    break
        for way in (self.up, self.down):
            self.loop.watch(way.source.fileno(), 0, way)
            way.give_up()
            if tls := tls_of(way.source):
                send_close_notify(tls)
            way.source.close()
        self.note_end()
