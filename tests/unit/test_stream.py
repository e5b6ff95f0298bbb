"""The stream: lines, literals, timeouts and pauses."""

import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from perdition.net import stream as stream_module
from perdition.net.loop import Loop
from perdition.net.stream import (
    CHUNK,
    Abandoned,
    DeadlineExceeded,
    LineLimitExceeded,
    PeerClosed,
    Stream,
)
from perdition.net.transport import TLSHandshakeFailed
from tests.unit.loops import run

LIMIT = 100

Read = Callable[[Stream], Coroutine[Any, Any, bytes]]
every_read = pytest.mark.parametrize(
    "read",
    [lambda stream: stream.read_line(LIMIT), lambda stream: stream.read_exactly(10)],
    ids=["line", "literal"],
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, non-blocking."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    with closing(ours), closing(theirs):
        yield ours, theirs


@pytest.fixture
def peer(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    """The other end of the stream's connection."""
    return ends[1]


@pytest.fixture
def stream(loop: Loop, ends: tuple[socket.socket, socket.socket]) -> Stream:
    """A stream with a short timeout."""
    return Stream(loop, ends[0], timeout=0.1)


def test_lines_and_literals_are_read_from_any_pieces(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    data = b"one\r\ntwo\n\r\n{3}\r\n\r\n!four\r\nrest"

    def send(piece: bytes) -> None:
        peer.send(piece)

    async def listen() -> list[bytes]:
        for start in range(0, len(data), 4):
            loop.call_soon_from_thread(partial(send, data[start : start + 4]))
        found = [await stream.read_line(LIMIT) for _ in range(4)]
        found.append(await stream.read_exactly(3))
        found.append(await stream.read_line(LIMIT))
        found.append(await stream.read_exactly(2))
        return found

    assert run(loop, listen()) == [b"one", b"two", b"", b"{3}", b"\r\n!", b"four", b"re"]
    assert stream.unread() == b"st"


@pytest.mark.parametrize("line", [b"x" * (LIMIT - 1) + b"\r\n", b"x" * LIMIT + b"\n"])
def test_line_of_the_limit_is_read(
    loop: Loop, stream: Stream, peer: socket.socket, line: bytes
) -> None:
    peer.send(line)
    assert run(loop, stream.read_line(LIMIT)) == line.rstrip()


@pytest.mark.parametrize("line", [b"x" * (LIMIT + 1) + b"\n", b"x" * 50_000])
def test_longer_line_is_not_waited_for(
    loop: Loop, stream: Stream, peer: socket.socket, line: bytes
) -> None:
    peer.send(line)
    with pytest.raises(LineLimitExceeded):
        run(loop, stream.read_line(LIMIT))
    assert len(stream.unread()) <= LIMIT + CHUNK


@every_read
@pytest.mark.parametrize("data", [b"", b"half"])
def test_end_of_the_connection_raises_peer_closed(
    loop: Loop, stream: Stream, peer: socket.socket, data: bytes, read: Read
) -> None:
    peer.send(data)
    peer.close()
    with pytest.raises(PeerClosed):
        run(loop, read(stream))


@every_read
def test_silent_peer_times_out(loop: Loop, stream: Stream, read: Read) -> None:
    with pytest.raises(TimeoutError):
        run(loop, read(stream))


def test_peer_that_reads_nothing_times_out(loop: Loop, stream: Stream) -> None:
    with pytest.raises(TimeoutError):
        run(loop, stream.write(bytes(5_000_000)))


def test_write_to_a_closed_connection_raises_peer_closed(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    peer.close()
    with pytest.raises(PeerClosed):
        run(loop, stream.write(b"hello"))
    stream.send_last(b"bye")


def test_large_output_is_written_completely(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    data = bytes(range(256)) * 20_000
    reader = Stream(loop, peer, timeout=0)

    async def send_and_read() -> bytes:
        loop.spawn(stream.write(data))
        return await reader.read_exactly(len(data))

    assert run(loop, send_and_read()) == data


def test_tls_instead_of_plain_text_is_reported_at_once(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    peer.send(b"\x16\x03\x01\x02\x00\x01")
    with pytest.raises(TLSHandshakeFailed, match="TLS"):
        run(loop, stream.read_line(LIMIT))


def test_unused_bytes_are_handed_over(loop: Loop, stream: Stream, peer: socket.socket) -> None:
    peer.send(b"OK\r\n* early")
    assert run(loop, stream.read_line(LIMIT)) == b"OK"
    assert stream.unread() == b"* early"
    assert stream.hand_over().fileno() == stream.sock.fileno()


@pytest.mark.parametrize("close", [Stream.close, Stream.detach])
def test_closed_stream_reads_nothing_more(
    loop: Loop, stream: Stream, peer: socket.socket, close: Callable[[Stream], None]
) -> None:
    peer.send(b"one\r\n")
    run(loop, stream.read_line(LIMIT))
    close(stream)
    with closing(stream.sock):
        run(loop, loop.sleep(0))
    assert stream.unread() == b""


LONG_PAUSE = 60.0
"""Far longer than a test may take."""


def test_reset_ends_a_pause(loop: Loop, stream: Stream, peer: socket.socket) -> None:
    """A peer that reset the connection never reads its answer."""

    async def leave() -> None:
        await stream.write(b"unread, which makes of the end a reset")
        loop.call_soon_from_thread(peer.close)
        await stream.pause(LONG_PAUSE)

    with pytest.raises(Abandoned):
        run(loop, leave())


def test_half_closed_connection_ends_a_pause_after_a_while(
    loop: Loop, stream: Stream, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that closed its side may still read, or may have left."""
    monkeypatch.setattr(stream_module, "HALF_CLOSED_SECONDS", 0.3)

    async def listen() -> bool:
        peer.shutdown(socket.SHUT_WR)
        await stream.pause(0.1)
        try:
            await stream.pause(LONG_PAUSE)
        except Abandoned:
            return True
        return False

    assert run(loop, listen())


def test_lines_sent_during_a_pause_are_read_after_it(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    """They are read even if the peer has closed its side since."""

    async def listen() -> list[bytes]:
        peer.send(b"one\r\ntwo\r\n")
        peer.shutdown(socket.SHUT_WR)
        await stream.pause(0.1)
        await stream.pause(0.1)
        return [await stream.read_line(LIMIT) for _ in range(2)]

    assert run(loop, listen()) == [b"one", b"two"]


def test_pause_after_a_write_that_had_to_wait_costs_no_cpu_time(
    loop: Loop, stream: Stream, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command was sent in advance, so no read comes between the write and the pause."""
    wakeups: list[int] = []
    ready = Stream.ready

    def count(woken: Stream, events: int) -> None:
        if woken is stream:
            wakeups.append(events)
        ready(woken, events)

    reader = Stream(loop, peer, timeout=0)
    octets = bytes(5_000_000)

    async def serve() -> None:
        peer.send(b"one\r\ntwo\r\n")
        await stream.read_line(LIMIT)
        loop.spawn(read_all())
        await stream.write(octets)
        await stream.read_line(LIMIT)
        monkeypatch.setattr(Stream, "ready", count)
        await stream.pause(0.2)

    async def read_all() -> None:
        await reader.read_exactly(len(octets))
        reader.detach()

    run(loop, serve())
    assert len(wakeups) < 10


@pytest.fixture
def hurried(loop: Loop, ends: tuple[socket.socket, socket.socket]) -> Stream:
    """A stream with a deadline and no timeout."""
    return Stream(loop, ends[0], timeout=0, deadline=0.3)


@every_read
def test_silent_peer_exceeds_the_deadline(loop: Loop, hurried: Stream, read: Read) -> None:
    with pytest.raises(DeadlineExceeded):
        run(loop, read(hurried))


@pytest.mark.parametrize("read", [lambda s: s.read_line(10**9), lambda s: s.read_exactly(10**9)])
def test_trickling_peer_exceeds_the_deadline(
    loop: Loop, hurried: Stream, peer: socket.socket, read: Read
) -> None:
    def send() -> None:
        peer.send(b"x")
        loop.call_later(0, send)

    async def trickle() -> bytes:
        send()
        return await read(hurried)

    with pytest.raises(DeadlineExceeded):
        run(loop, trickle())


def test_peer_whose_next_line_is_always_there_exceeds_the_deadline(
    loop: Loop, hurried: Stream, peer: socket.socket
) -> None:
    async def answer() -> None:
        while True:
            peer.send(b"NOOP\r\n")
            await hurried.read_line(LIMIT)

    with pytest.raises(DeadlineExceeded):
        run(loop, answer())


def test_lines_sent_in_advance_do_not_extend_the_deadline(
    loop: Loop, hurried: Stream, peer: socket.socket
) -> None:
    peer.send(b"a\r\n" * CHUNK)

    async def refuse() -> None:
        while True:
            await hurried.read_line(LIMIT)
            await hurried.pause(0.1)

    with pytest.raises(DeadlineExceeded):
        run(loop, refuse())


def test_peer_that_reads_nothing_exceeds_the_deadline(loop: Loop, hurried: Stream) -> None:
    with pytest.raises(DeadlineExceeded):
        run(loop, hurried.write(bytes(5_000_000)))


def test_timeout_before_the_deadline_is_a_timeout(
    loop: Loop, ends: tuple[socket.socket, socket.socket]
) -> None:
    stream = Stream(loop, ends[0], timeout=0.1, deadline=60)
    with pytest.raises(TimeoutError) as raised:
        run(loop, stream.read_line(LIMIT))
    assert not isinstance(raised.value, DeadlineExceeded)
