"""The splice: an established session's bytes in both directions."""

import errno
import gc
import os
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest
from OpenSSL import SSL

from perdition.net import splice as module
from perdition.net import tls
from perdition.net.loop import Loop
from perdition.net.splice import BUFFER, BULK_PIPE_SIZE, SPARE_PIPES, Flow, Splice
from perdition.net.tls import MOVING_WRITE_BUFFER, PARTIAL_WRITE
from perdition.net.transport import NOT_NOW, Transport, WantRead
from perdition.protocol.base import Protocol
from perdition.protocol.imap4 import IMAP4
from perdition.protocol.managesieve import ManageSieve

DEADLINE = 20.0
CHUNK = 200_000
KERNEL_BUFFER = 256 << 10
BIG = 8 << 20
"""Bytes: more than the kernel buffers for both connections of a session."""


def connected_pair(tls: bool = False) -> tuple[Transport, Transport]:
    """Both ends of a connection, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
    return secured(near, far) if tls else (near, far)


def anonymous() -> SSL.Context:
    """A context for TLS without certificates, for both sides."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AECDH:@SECLEVEL=0")
    context.set_mode(MOVING_WRITE_BUFFER)
    SSL._lib.SSL_CTX_clear_mode(context._context, PARTIAL_WRITE)  # as net.tls does
    return context


def secured(near: socket.socket, far: socket.socket) -> tuple[tls.TLSConnection, tls.TLSConnection]:
    pair = tls.TLSConnection(anonymous(), near), tls.TLSConnection(anonymous(), far)
    client, server = pair
    client.ssl.set_connect_state()
    server.ssl.set_accept_state()
    unfinished = set(pair)
    while unfinished:
        for sock in pair:
            with suppress(WantRead):
                sock.do_handshake()
                unfinished.discard(sock)
    return pair


def narrow(source: Transport, sink: Transport) -> None:
    """Make the kernel's buffers between both ends of a connection small."""
    for end, option in ((source, socket.SO_SNDBUF), (sink, socket.SO_RCVBUF)):
        with socket.socket(fileno=os.dup(end.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER // 16)


class SplicePeer:
    """A client or real server; it keeps what it receives.

    ``reads`` is whether it reads at all, ``piece`` how many bytes at once.
    """

    def __init__(self, sock: Transport) -> None:
        self.sock = sock
        self.unsent = memoryview(b"")
        self.received = bytearray()
        self.reads = True
        self.piece = CHUNK
        self.received_end = False

    def queue(self, data: bytes) -> None:
        """Queue bytes to be sent."""
        self.unsent = memoryview(bytes(self.unsent) + data)

    def move(self) -> int:
        """Send and receive without waiting; return how many bytes moved."""
        moved = 0
        if self.unsent:
            with suppress(*NOT_NOW):
                moved = self.sock.send(self.unsent[:CHUNK])
            self.unsent = self.unsent[moved:]
        if self.reads and not self.received_end:
            try:
                data = self.sock.recv(self.piece)
            except NOT_NOW:
                return moved
            self.received_end = not data
            self.received += data
            moved += len(data)
        return moved

    def send_end(self) -> None:
        """Close this side for sending; with TLS, also stop reading."""
        if isinstance(self.sock, socket.socket):
            self.sock.shutdown(socket.SHUT_WR)
        else:
            assert isinstance(self.sock, tls.TLSConnection)
            with suppress(WantRead):
                self.sock.unwrap()
            self.reads = False

    def reset(self) -> None:
        """Close the connection with a reset."""
        sock = self.sock.sock if isinstance(self.sock, tls.TLSConnection) else self.sock
        assert isinstance(sock, socket.socket)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


class RecordedSplice(Splice):
    """A splice that records its events and runs an action at its end."""

    def __init__(self, loop: Loop, client: Transport, server: Transport, timeout: float) -> None:
        self.totals = ([0], [0])
        super().__init__(loop, client, server, timeout, self.totals)
        self.events: list[str] = []
        self.at_end: Callable[[], None] = lambda: None

    def on_idle_timeout(self) -> None:
        self.events.append("idle")

    def on_shutdown(self) -> None:
        self.events.append("shutdown")

    def on_closed(self) -> None:
        self.events.append("closed")
        self.at_end()


class SpliceUnderTest:
    """A splice between a client and a real server, and its events."""

    def __init__(
        self, loop: Loop, timeout: float = 0, tls: bool = False, client_tls: bool = False
    ) -> None:
        near_client, far_client = connected_pair(client_tls)
        near_server, far_server = connected_pair(tls)
        self.loop = loop
        self.client, self.server = SplicePeer(far_client), SplicePeer(far_server)
        self.splice = RecordedSplice(loop, near_client, near_server, timeout)
        self.events = self.splice.events

    def turn(self) -> int:
        """Run the peers and the loop once; return how many bytes the peers moved."""
        moved = self.client.move() + self.server.move()
        self.run_loop()
        return moved

    def run_loop(self) -> None:
        """Handle the events that are pending."""
        self.loop.call_soon_from_thread(self.stop)
        self.loop.run()

    def stop(self) -> None:
        self.loop.running = False

    def until_client_has(self, count: int) -> bytes:
        return self.until_received(self.client, count)

    def until_server_has(self, count: int) -> bytes:
        return self.until_received(self.server, count)

    def until_received(self, peer: SplicePeer, count: int) -> bytes:
        """Run until a peer has that many bytes; return all that it has."""
        deadline = time.monotonic() + DEADLINE
        while len(peer.received) < count:
            assert time.monotonic() < deadline, (
                f"{len(peer.received)} of {count} bytes; {self.events}"
            )
            self.turn()
        return bytes(peer.received)

    def until_end(self) -> None:
        """Run until both peers have read the end."""
        deadline = time.monotonic() + DEADLINE
        while not (self.client.received_end and self.server.received_end):
            assert time.monotonic() < deadline, f"no end; {self.events}"
            self.turn()

    def until_closed(self) -> None:
        """Run until the splice has closed and both peers have read all that it sent."""
        deadline = time.monotonic() + DEADLINE
        while not self.splice.closed:
            assert time.monotonic() < deadline, f"not closed; {self.events}"
            with suppress(OSError):  # from a peer that a test has closed
                self.turn()
            self.run_loop()
        for peer in (self.client, self.server):
            with suppress(OSError):  # a test may have closed it
                while peer.move():
                    pass

    def until_stuck(self) -> None:
        still = 0
        while still < 50:
            still = 0 if self.turn() else still + 1

    def close(self) -> None:
        self.splice.close()
        self.client.sock.close()
        self.server.sock.close()


@pytest.fixture
def session(loop: Loop) -> Iterator[SpliceUnderTest]:
    """A session whose splice has not started yet."""
    with closing(SpliceUnderTest(loop)) as session:
        yield session


@pytest.fixture
def tls_session(loop: Loop) -> Iterator[SpliceUnderTest]:
    """The same, with TLS to the real server."""
    with closing(SpliceUnderTest(loop, tls=True)) as session:
        yield session


def random_bytes(count: int, seed: int = 1) -> bytes:
    """Random bytes."""
    return random.Random(seed).randbytes(count)


def counts(splice: Splice) -> tuple[int, int]:
    """Bytes received from the client and sent to it, as the Close line has them."""
    return splice.up.transferred, splice.down.transferred


def held_bytes(flow: Flow) -> int:
    """How many bytes the splice holds for one direction."""
    return len(flow.held) + flow.piped


def test_welcome_is_sent_first_and_then_the_leftovers(session: SpliceUnderTest) -> None:
    session.splice.start(b"OK in\r\n", b"from client", b"from server")
    assert session.until_client_has(18) == b"OK in\r\nfrom server"
    assert session.until_server_has(11) == b"from client"
    assert counts(session.splice) == (11, 11)


def test_welcome_is_not_counted(session: SpliceUnderTest) -> None:
    session.splice.start(b"OK in\r\n", b"", b"")
    session.until_client_has(7)
    assert counts(session.splice) == (0, 0)


@pytest.mark.parametrize("count", [1, len(BUFFER) - 1, len(BUFFER), len(BUFFER) + 1, BIG])
def test_every_byte_arrives_both_ways_at_once(session: SpliceUnderTest, count: int) -> None:
    up, down = random_bytes(count, 1), random_bytes(count, 2)
    session.client.queue(up)
    session.server.queue(down)
    session.splice.start(b"", b"", b"")

    assert session.until_server_has(count) == up
    assert session.until_client_has(count) == down
    assert counts(session.splice) == (count, count)
    assert session.splice.totals == ([count], [count])
    for flow in (session.splice.up, session.splice.down):
        assert (flow.held, flow.pipe) == (b"", None), "an idle session owns no buffer and no pipe"
    assert len(module.spare_pipes) <= SPARE_PIPES


def test_slow_reader_delays_only_its_own_direction(session: SpliceUnderTest) -> None:
    down = random_bytes(BIG)
    session.client.reads = False
    session.server.queue(down)
    session.splice.start(b"", b"", b"")
    session.until_stuck()

    assert session.server.unsent, "the real server must feel the back-pressure"
    assert held_bytes(session.splice.down) <= len(BUFFER) + BULK_PIPE_SIZE

    session.client.queue(b"DONE\r\n")
    assert session.until_server_has(6) == b"DONE\r\n"
    session.client.reads = True
    assert session.until_client_has(BIG) == down
    assert counts(session.splice) == (6, BIG)


def test_large_leftovers_are_held_for_a_slow_reader(session: SpliceUnderTest) -> None:
    leftover = random_bytes(BIG)
    session.client.reads = False
    session.server.queue(b"last")
    session.splice.start(b"OK\r\n", b"", leftover)
    session.until_stuck()
    session.client.reads = True
    assert session.until_client_has(BIG + 8) == b"OK\r\n" + leftover + b"last"


def test_half_closed_client_still_gets_its_answer(session: SpliceUnderTest) -> None:
    session.client.queue(b"QUIT\r\n")
    session.splice.start(b"", b"", b"")
    session.until_server_has(6)
    session.client.send_end()
    while not session.server.received_end:
        session.turn()
    assert not session.splice.closed

    answer = random_bytes(1_000_000)
    session.server.queue(answer)
    assert session.until_client_has(len(answer)) == answer
    session.server.send_end()
    session.until_end()
    assert session.events == ["closed"]


def test_last_bytes_of_the_real_server_reach_a_slow_client(session: SpliceUnderTest) -> None:
    sent = random_bytes(BIG)
    session.client.reads = False
    session.server.queue(sent)
    session.splice.start(b"", b"", b"")
    session.until_stuck()
    session.client.reads = True
    while session.server.unsent:
        session.turn()
    session.server.send_end()
    session.until_end()

    assert session.client.received == sent
    assert session.events == ["closed"]
    assert counts(session.splice) == (0, BIG)


@pytest.mark.parametrize("count", [1, 16384, 16385, 200_000, BIG])
def test_every_byte_arrives_over_tls(tls_session: SpliceUnderTest, count: int) -> None:
    test_every_byte_arrives_both_ways_at_once(tls_session, count)


@pytest.mark.parametrize("count", [70_000, 75_000, 80_000, 85_000])
def test_last_bytes_over_tls_reach_a_slow_client(tls_session: SpliceUnderTest, count: int) -> None:
    """They arrive together with the end, and the client reads them in small pieces."""
    session, sent = tls_session, random_bytes(count)
    narrow(session.splice.client, session.client.sock)
    session.client.piece = 3000
    session.server.queue(sent)
    while session.server.unsent:
        session.server.move()
    session.server.send_end()
    session.splice.start(b"", b"", b"")
    while not session.client.received_end:
        session.turn()

    assert session.client.received == sent
    assert counts(session.splice) == (0, count)
    assert session.events == ["closed"]


def test_tls_records_may_come_in_pieces(tls_session: SpliceUnderTest) -> None:
    sent = random_bytes(200_000)
    narrow(tls_session.server.sock, tls_session.splice.server)
    tls_session.server.queue(sent)
    tls_session.splice.start(b"", b"", b"")
    assert tls_session.until_client_has(len(sent)) == sent


@pytest.mark.parametrize("leftover", [b"", bytes(BIG)])
def test_bytes_already_decrypted_are_forwarded(
    tls_session: SpliceUnderTest, leftover: bytes
) -> None:
    session = tls_session
    session.server.queue(b"OK\r\nearly")
    session.server.move()
    heard = b""
    while not heard:
        with suppress(WantRead):
            heard = session.splice.server.recv(4)
    assert heard == b"OK\r\n"

    session.client.reads = False
    session.splice.start(b"", b"", leftover)
    session.until_stuck()
    session.client.reads = True
    assert session.until_client_has(len(leftover) + 5) == leftover + b"early"


def test_session_whose_sockets_cannot_be_watched_ends_once(
    session: SpliceUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the limit of epoll watches were reached (epoll_ctl(2), ENOSPC)."""

    def refuse(descriptor: int, events: int, handler: Flow) -> None:
        if events:
            raise OSError(errno.ENOSPC, "No space left on device")

    errors: list[Exception] = []
    session.loop.on_error = errors.append
    monkeypatch.setattr(session.loop, "watch", refuse)
    session.splice.start(b"", b"", b"")
    assert session.events == ["closed"]
    assert [type(error) for error in errors] == [OSError]


@pytest.mark.parametrize("resetting", ["client", "server"])
@pytest.mark.parametrize("unread", [0, BIG])
def test_reset_closes_both_sides_once(
    session: SpliceUnderTest, resetting: str, unread: int
) -> None:
    gone, left = session.client, session.server
    if resetting == "server":
        gone, left = left, gone
    left.queue(bytes(unread))
    session.splice.start(b"", b"", b"")
    gone.reads = False
    session.until_stuck()

    gone.reset()
    deadline = time.monotonic() + DEADLINE
    while not session.events:
        assert time.monotonic() < deadline, "the session goes on"
        session.loop.call_soon_from_thread(session.stop)
        session.loop.run()
    assert session.events == ["closed"]
    session.splice.close()
    assert session.events == ["closed"]


def test_client_that_leaves_before_its_welcome_ends_the_session(session: SpliceUnderTest) -> None:
    session.client.reset()
    session.splice.start(b"OK in\r\n", b"", b"")
    while not session.events:
        session.loop.call_soon_from_thread(session.stop)
        session.loop.run()
    assert session.events == ["closed"]


def test_idle_session_is_reported_and_then_closed(loop: Loop) -> None:
    with closing(SpliceUnderTest(loop, timeout=0.1)) as session:
        session.splice.start(b"", b"", b"")
        session.splice.at_end = session.stop
        loop.run()
        assert session.events == ["idle", "closed"]
        session.until_end()


def test_shutdown_is_reported_and_then_the_session_closed(session: SpliceUnderTest) -> None:
    session.splice.start(b"", b"", b"")
    session.splice.shut_down()
    assert session.events == ["shutdown", "closed"]


def test_session_with_traffic_is_not_idle(loop: Loop) -> None:
    with closing(SpliceUnderTest(loop, timeout=0.2)) as session:
        session.splice.start(b"", b"", b"")

        def send() -> None:
            session.server.sock.send(b"x")
            loop.call_later(0.05, send)

        send()
        loop.call_later(0.5, session.stop)
        loop.run()
        assert session.events == []


@pytest.mark.parametrize(
    ("protocol", "from_server"),
    [
        (IMAP4(), b""),
        (IMAP4(), b"a2 OK Fetch completed.\r\n"),
        (IMAP4(), b"* 1 FETCH (BODY[] {6}\r\n* 1 X\r\n)\r\na2 OK [X] done\r\n"),
        (IMAP4(), b"+ idling\r\n"),
        (IMAP4(), b"* OK Still here\r\n"),
        (IMAP4(), b"* 23 EXISTS\r\n* 1 RECENT\r\n"),
        (ManageSieve(), b""),
        (ManageSieve(), b'"a" ACTIVE\r\nOK\r\n'),
        (ManageSieve(), b'NO (NONEXISTENT) "no such script"\r\n'),
    ],
)
def test_last_notice_follows_a_complete_response(
    session: SpliceUnderTest, protocol: Protocol, from_server: bytes
) -> None:
    welcome = b"a1 OK [CAPABILITY %b] in\r\n" % (b"IMAP4rev1 " * 100)
    if isinstance(protocol, ManageSieve):
        welcome = b'OK "in"\r\n'
    session.splice.start(welcome, b"", b"")
    session.server.queue(from_server)
    expected = welcome + from_server
    session.until_client_has(len(expected))
    session.splice.send_notice(b"BYE\r\n", protocol.response_end)
    assert session.until_client_has(len(expected) + 5) == expected + b"BYE\r\n"


@pytest.mark.parametrize(
    ("protocol", "from_server"),
    [
        (IMAP4(), b"* 1 FETCH (BODY[] {6000}\r\n"),
        (IMAP4(), b"* 1 FETCH (BODY[] {6000}\r\nDear Joe,\r\n"),
        (IMAP4(), b"* 1 FETCH (BODY[] {6000}\r\nDear Joe,\r\n+ more\r\n"),
        (IMAP4(), b"a2 OK Fetch comple"),
        (IMAP4(), b"* 1 FETCH (BODY[] {6000}\r\n" + b"x" * 1000 + b" OK\r\n"),
        (IMAP4(), b"a2 OK Fetch completed.\n"),
        (ManageSieve(), b'{1000}\r\nrequire "fileinto";\r\n'),
        (ManageSieve(), b"NO {20}\r\n"),
    ],
)
def test_last_notice_is_not_sent_within_a_response(
    session: SpliceUnderTest, protocol: Protocol, from_server: bytes
) -> None:
    session.splice.start(b"a1 OK in\r\n", b"", b"")
    session.server.queue(from_server)
    session.until_client_has(10 + len(from_server))
    session.splice.send_notice(b"BYE\r\n", protocol.response_end)
    session.splice.close()
    session.until_end()
    assert session.client.received == b"a1 OK in\r\n" + from_server


def test_last_notice_is_not_sent_amid_other_bytes(session: SpliceUnderTest) -> None:
    anything = re.compile(b"")
    session.splice.start(b"", b"", b"")
    session.splice.send_notice(b'BYE "idle"\r\n', anything)
    assert session.until_client_has(12) == b'BYE "idle"\r\n'

    session.client.reads = False
    session.server.queue(bytes(BIG))
    session.until_stuck()
    session.client.reads = True
    while session.client.move():
        pass
    session.splice.send_notice(b"BYE in the middle", anything)
    session.until_client_has(12 + BIG)
    assert b"BYE" not in session.client.received[12:]


@pytest.mark.parametrize("ending", ["client", "server", "timeout"])
def test_finished_sessions_leave_nothing_for_the_garbage_collector(loop: Loop, ending: str) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            with closing(SpliceUnderTest(loop, timeout=60)) as session:
                session.splice.start(b"OK in\r\n", b"from client", b"from server")
                session.until_client_has(18)
                session.until_server_has(11)
                if ending == "timeout":
                    session.splice.close()
                else:
                    getattr(session, ending).reset()
                session.until_closed()
            del session
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_session_does_not_get_events_of_a_closed_one(loop: Loop) -> None:
    """Both sockets are ready at once; the first event closes the session, and another one
    reuses its descriptors before the second event is handled."""
    with ExitStack() as stack:
        successors: list[SpliceUnderTest] = []

        def succeed() -> None:
            successors.append(stack.enter_context(closing(SpliceUnderTest(loop))))
            successors[0].splice.start(b"", b"", b"")

        first = stack.enter_context(closing(SpliceUnderTest(loop)))
        first.splice.at_end = succeed
        first.splice.start(b"", b"", b"")
        numbers = {first.splice.client.fileno(), first.splice.server.fileno()}
        first.client.reset()
        first.server.reset()
        while not successors:
            first.loop.call_soon_from_thread(first.stop)
            loop.run()
        [second] = successors
        assert numbers & {second.splice.client.fileno(), second.splice.server.fileno()}

        second.client.queue(b"alive")
        second.server.queue(b"well")
        assert second.until_server_has(5) == b"alive"
        assert second.until_client_has(4) == b"well"
        assert second.events == []
