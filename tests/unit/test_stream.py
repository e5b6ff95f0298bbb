"""A connection as lines and literals."""

import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from perdition.net import stream as stream_module
from perdition.net.loop import Loop
from perdition.net.stream import CHUNK, Abandoned, LineLimitExceeded, PeerClosed, Stream
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
    """Both ends of a connection."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    with closing(ours), closing(theirs):
        yield ours, theirs


@pytest.fixture
def peer(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    """Whom the stream leads to."""
    return ends[1]


@pytest.fixture
def stream(loop: Loop, ends: tuple[socket.socket, socket.socket]) -> Stream:
    """A stream whose peer may be silent for a short while only."""
    return Stream(loop, ends[0], seconds=0.1)


def test_lines_and_literals_come_whole_from_any_pieces(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    said = b"one\r\ntwo\n\r\n{3}\r\n\r\n!four\r\nrest"

    def say(piece: bytes) -> None:
        peer.send(piece)

    async def listen() -> list[bytes]:
        for start in range(0, len(said), 4):
            loop.call_soon_from_thread(partial(say, said[start : start + 4]))
        heard = [await stream.read_line(LIMIT) for _ in range(4)]
        heard.append(await stream.read_exactly(3))
        heard.append(await stream.read_line(LIMIT))
        heard.append(await stream.read_exactly(2))
        return heard

    assert run(loop, listen()) == [b"one", b"two", b"", b"{3}", b"\r\n!", b"four", b"re"]
    assert stream.unread() == b"st"


@pytest.mark.parametrize("line", [b"x" * (LIMIT - 1) + b"\r\n", b"x" * LIMIT + b"\n"])
def test_longest_line(loop: Loop, stream: Stream, peer: socket.socket, line: bytes) -> None:
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
@pytest.mark.parametrize("said", [b"", b"half"])
def test_end_in_the_middle_is_an_end(
    loop: Loop, stream: Stream, peer: socket.socket, said: bytes, read: Read
) -> None:
    peer.send(said)
    peer.close()
    with pytest.raises(PeerClosed):
        run(loop, read(stream))


@every_read
def test_silent_peer_times_out(loop: Loop, stream: Stream, read: Read) -> None:
    with pytest.raises(TimeoutError):
        run(loop, read(stream))


def test_peer_that_takes_nothing_times_out(loop: Loop, stream: Stream) -> None:
    with pytest.raises(TimeoutError):
        run(loop, stream.write(bytes(5_000_000)))


def test_peer_that_has_gone_takes_nothing(loop: Loop, stream: Stream, peer: socket.socket) -> None:
    peer.close()
    with pytest.raises(PeerClosed):
        run(loop, stream.write(b"hello"))
    stream.send_last(b"bye")


def test_more_than_the_system_takes_at_once_is_written(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    said = bytes(range(256)) * 20_000
    there = Stream(loop, peer, seconds=0)

    async def talk() -> bytes:
        loop.spawn(stream.write(said))
        return await there.read_exactly(len(said))

    assert run(loop, talk()) == said


def test_tls_where_plain_text_is_expected_is_told_at_once(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    peer.send(b"\x16\x03\x01\x02\x00\x01")
    with pytest.raises(TLSHandshakeFailed, match="TLS"):
        run(loop, stream.read_line(LIMIT))


def test_next_owner_gets_what_was_not_used(loop: Loop, stream: Stream, peer: socket.socket) -> None:
    peer.send(b"OK\r\n* early")
    assert run(loop, stream.read_line(LIMIT)) == b"OK"
    assert stream.unread() == b"* early"
    assert stream.hand_over().fileno() == stream.sock.fileno()


@pytest.mark.parametrize("close", [Stream.close, Stream.detach])
def test_closed_stream_hears_nothing_more(
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


def test_peer_that_resets_the_connection_is_not_paused_for(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    """It will never read its answer, and what it takes up is free at once."""

    async def leave() -> None:
        await stream.write(b"unread, which makes of the end a reset")
        loop.call_soon_from_thread(peer.close)
        await stream.pause(LONG_PAUSE)

    with pytest.raises(Abandoned):
        run(loop, leave())


def test_peer_that_has_said_all_waits_for_its_answer_but_not_for_long(
    loop: Loop, stream: Stream, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell one that has left from one that only says no more."""
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


def test_peer_that_says_more_amid_a_pause_is_heard_after_it(
    loop: Loop, stream: Stream, peer: socket.socket
) -> None:
    """However it goes on: what it said before it left counts."""

    async def listen() -> list[bytes]:
        peer.send(b"one\r\ntwo\r\n")
        peer.shutdown(socket.SHUT_WR)
        await stream.pause(0.1)
        await stream.pause(0.1)
        return [await stream.read_line(LIMIT) for _ in range(2)]

    assert run(loop, listen()) == [b"one", b"two"]
