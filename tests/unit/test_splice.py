"""The splice: an established session's octets, both ways, to the last one."""

import os
import random
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
from perdition.net.splice import BUFFER, PIPE_SIZE, SPARE_PIPES, Connection, Splice, Way
from perdition.net.tls import MOVING_WRITE_BUFFER
from perdition.net.transport import NOT_NOW, WantRead

DEADLINE = 20.0
CHUNK = 200_000
KERNEL_BUFFER = 256 << 10
BIG = 8 << 20
"""More than the kernel holds in both connections of a session."""


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection; nobody waits at either."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
    return near, far


def anonymous() -> SSL.Context:
    """What TLS without any certificate needs on either side."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AECDH:@SECLEVEL=0")
    context.set_mode(MOVING_WRITE_BUFFER)
    return context


def secured(near: socket.socket, far: socket.socket) -> tuple[tls.Connection, tls.Connection]:
    """Put TLS over both ends of a connection."""
    pair = tls.Connection(anonymous(), near), tls.Connection(anonymous(), far)
    client, server = pair
    client.connection.set_connect_state()
    server.connection.set_accept_state()
    unfinished = set(pair)
    while unfinished:
        for sock in pair:
            with suppress(WantRead):
                sock.do_handshake()
                unfinished.discard(sock)
    return pair


def narrow(source: Connection, sink: Connection) -> None:
    """Have the system hold as little as it can between both ends of a connection."""
    for end, option in ((source, socket.SO_SNDBUF), (sink, socket.SO_RCVBUF)):
        with socket.socket(fileno=os.dup(end.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER // 16)


class Peer:
    """A client or real server at its end of the session: sends what it can, and keeps what came.

    ``takes`` tells whether it reads at all, ``piece`` how many octets at once.
    """

    def __init__(self, sock: Connection) -> None:
        self.sock = sock
        self.unsent = memoryview(b"")
        self.received = bytearray()
        self.takes = True
        self.piece = CHUNK
        self.heard_end = False

    def say(self, octets: bytes) -> None:
        """Send these from now on."""
        self.unsent = memoryview(bytes(self.unsent) + octets)

    def move(self) -> int:
        """Send and take what goes at once; gives how many octets went."""
        moved = 0
        if self.unsent:
            with suppress(*NOT_NOW):
                moved = self.sock.send(self.unsent[:CHUNK])
            self.unsent = self.unsent[moved:]
        if self.takes and not self.heard_end:
            try:
                octets = self.sock.recv(self.piece)
            except NOT_NOW:
                return moved
            self.heard_end = not octets
            self.received += octets
            moved += len(octets)
        return moved

    def say_end(self) -> None:
        """Tell that no more will come; after that, TLS hears no more either."""
        if isinstance(self.sock, socket.socket):
            self.sock.shutdown(socket.SHUT_WR)
        else:
            with suppress(WantRead):
                self.sock.unwrap()
            self.takes = False

    def reset(self) -> None:
        """Close the connection in the rudest way."""
        assert isinstance(self.sock, socket.socket)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Noting(Splice):
    """A splice that notes what happens to it, and tells whoever waits for its end."""

    def __init__(self, loop: Loop, client: Connection, server: Connection, timeout: float) -> None:
        self.totals = ([0], [0])
        super().__init__(loop, client, server, timeout, self.totals)
        self.told: list[str] = []
        self.at_end: Callable[[], None] = lambda: None

    def note_idle(self) -> None:
        self.told.append("idle")

    def note_end(self) -> None:
        self.told.append("closed")
        self.at_end()


class Session:
    """A splice with a peer on each side, and what it has told."""

    def __init__(self, loop: Loop, timeout: float = 0, tls: bool = False) -> None:
        near_client, far_client = connected_pair()
        bare = connected_pair()
        near_server, far_server = secured(*bare) if tls else bare
        self.loop = loop
        self.client, self.server = Peer(far_client), Peer(far_server)
        self.splice = Noting(loop, near_client, near_server, timeout)
        self.told = self.splice.told

    def turn(self) -> int:
        """Let the peers and the loop do what they can do at once."""
        moved = self.client.move() + self.server.move()
        self.loop.call_soon_from_thread(self.stop)
        self.loop.run()
        return moved

    def stop(self) -> None:
        """End the loop's run."""
        self.loop.running = False

    def until_client_has(self, count: int) -> bytes:
        """Go on until the client has that many octets."""
        return self.until_received(self.client, count)

    def until_server_has(self, count: int) -> bytes:
        """Go on until the real server has that many octets."""
        return self.until_received(self.server, count)

    def until_received(self, peer: Peer, count: int) -> bytes:
        """Go on until a peer has that many octets; gives all that it has."""
        late = time.monotonic() + DEADLINE
        while len(peer.received) < count:
            assert time.monotonic() < late, f"{len(peer.received)} of {count} octets; {self.told}"
            self.turn()
        return bytes(peer.received)

    def until_end(self) -> None:
        """Go on until both peers have heard the end."""
        late = time.monotonic() + DEADLINE
        while not (self.client.heard_end and self.server.heard_end):
            assert time.monotonic() < late, f"no end; {self.told}"
            self.turn()

    def until_stuck(self) -> None:
        """Go on until nothing moves any more."""
        still = 0
        while still < 50:
            still = 0 if self.turn() else still + 1

    def close(self) -> None:
        """Close what is left."""
        self.splice.close()
        self.client.sock.close()
        self.server.sock.close()


@pytest.fixture
def session(loop: Loop) -> Iterator[Session]:
    """A session that has not started yet."""
    with closing(Session(loop)) as session:
        yield session


@pytest.fixture
def tls_session(loop: Loop) -> Iterator[Session]:
    """The same, with TLS to the real server."""
    with closing(Session(loop, tls=True)) as session:
        yield session


def octets(count: int, seed: int = 1) -> bytes:
    """So many octets like no others."""
    return random.Random(seed).randbytes(count)


def counts(splice: Splice) -> tuple[int, int]:
    """What the closing line will tell: octets received from the client and sent to it."""
    return splice.up.octets, splice.down.octets


def owned(way: Way) -> int:
    """How many octets are on their way."""
    return len(way.held) + way.piped


def test_welcome_comes_first_and_leftovers_behind_it(session: Session) -> None:
    session.splice.start(b"OK in\r\n", b"from client", b"from server")
    assert session.until_client_has(18) == b"OK in\r\nfrom server"
    assert session.until_server_has(11) == b"from client"
    assert counts(session.splice) == (11, 11)


def test_nothing_is_counted_that_was_not_said(session: Session) -> None:
    session.splice.start(b"OK in\r\n", b"", b"")
    session.until_client_has(7)
    assert counts(session.splice) == (0, 0)


@pytest.mark.parametrize("count", [1, len(BUFFER) - 1, len(BUFFER), len(BUFFER) + 1, BIG])
def test_every_octet_arrives_both_ways_at_once(session: Session, count: int) -> None:
    up, down = octets(count, 1), octets(count, 2)
    session.client.say(up)
    session.server.say(down)
    session.splice.start(b"", b"", b"")

    assert session.until_server_has(count) == up
    assert session.until_client_has(count) == down
    assert counts(session.splice) == (count, count)
    assert session.splice.totals == ([count], [count])
    for way in (session.splice.up, session.splice.down):
        assert (way.held, way.pipe) == (b"", None), "an idle session owns no buffer and no pipe"
    assert len(module.spare_pipes) <= SPARE_PIPES


def test_slow_reader_holds_up_only_its_own_direction(session: Session) -> None:
    down = octets(BIG)
    session.client.takes = False
    session.server.say(down)
    session.splice.start(b"", b"", b"")
    session.until_stuck()

    assert session.server.unsent, "the real server must feel the back-pressure"
    assert owned(session.splice.down) <= len(BUFFER) + PIPE_SIZE

    session.client.say(b"DONE\r\n")
    assert session.until_server_has(6) == b"DONE\r\n"
    session.client.takes = True
    assert session.until_client_has(BIG) == down
    assert counts(session.splice) == (6, BIG)


def test_large_leftovers_are_held_for_a_slow_reader(session: Session) -> None:
    leftover = octets(BIG)
    session.client.takes = False
    session.server.say(b"last")
    session.splice.start(b"OK\r\n", b"", leftover)
    session.until_stuck()
    session.client.takes = True
    assert session.until_client_has(BIG + 8) == b"OK\r\n" + leftover + b"last"


def test_client_that_has_said_all_still_gets_its_answer(session: Session) -> None:
    session.client.say(b"QUIT\r\n")
    session.splice.start(b"", b"", b"")
    session.until_server_has(6)
    session.client.say_end()
    while not session.server.heard_end:
        session.turn()
    assert not session.splice.closed

    answer = octets(1_000_000)
    session.server.say(answer)
    assert session.until_client_has(len(answer)) == answer
    session.server.say_end()
    session.until_end()
    assert session.told == ["closed"]


def test_last_words_of_the_real_server_reach_a_slow_client(session: Session) -> None:
    words = octets(BIG)
    session.client.takes = False
    session.server.say(words)
    session.splice.start(b"", b"", b"")
    session.until_stuck()
    session.client.takes = True
    while session.server.unsent:
        session.turn()
    session.server.say_end()
    session.until_end()

    assert session.client.received == words
    assert session.told == ["closed"]
    assert counts(session.splice) == (0, BIG)


@pytest.mark.parametrize("count", [1, 16384, 16385, 200_000, BIG])
def test_every_octet_arrives_over_tls(tls_session: Session, count: int) -> None:
    test_every_octet_arrives_both_ways_at_once(tls_session, count)


@pytest.mark.parametrize("count", [70_000, 75_000, 80_000, 85_000])
def test_last_words_over_tls_reach_a_slow_client(tls_session: Session, count: int) -> None:
    """They come together with the end, and the client takes them in small pieces."""
    session, words = tls_session, octets(count)
    narrow(session.splice.client, session.client.sock)
    session.client.piece = 3000
    session.server.say(words)
    while session.server.unsent:
        session.server.move()
    session.server.say_end()
    session.splice.start(b"", b"", b"")
    while not session.client.heard_end:
        session.turn()

    assert session.client.received == words
    assert counts(session.splice) == (0, count)
    assert session.told == ["closed"]


def test_tls_records_may_come_in_pieces(tls_session: Session) -> None:
    words = octets(200_000)
    narrow(tls_session.server.sock, tls_session.splice.server)
    tls_session.server.say(words)
    tls_session.splice.start(b"", b"", b"")
    assert tls_session.until_client_has(len(words)) == words


@pytest.mark.parametrize("leftover", [b"", bytes(BIG)])
def test_octets_that_tls_has_decrypted_already_are_moved(
    tls_session: Session, leftover: bytes
) -> None:
    session = tls_session
    session.server.say(b"OK\r\nearly")
    session.server.move()
    heard = b""
    while not heard:
        with suppress(WantRead):
            heard = session.splice.server.recv(4)
    assert heard == b"OK\r\n"

    session.client.takes = False
    session.splice.start(b"", b"", leftover)
    session.until_stuck()
    session.client.takes = True
    assert session.until_client_has(len(leftover) + 5) == leftover + b"early"


@pytest.mark.parametrize("rude", ["client", "server"])
@pytest.mark.parametrize("unread", [0, BIG])
def test_reset_ends_both_sides_once(session: Session, rude: str, unread: int) -> None:
    gone, left = session.client, session.server
    if rude == "server":
        gone, left = left, gone
    left.say(bytes(unread))
    session.splice.start(b"", b"", b"")
    gone.takes = False
    session.until_stuck()

    gone.reset()
    late = time.monotonic() + DEADLINE
    while not session.told:
        assert time.monotonic() < late, "the session goes on"
        session.loop.call_soon_from_thread(session.stop)
        session.loop.run()
    assert session.told == ["closed"]
    session.splice.close()
    assert session.told == ["closed"]


def test_client_that_has_gone_before_its_welcome_ends_the_session(session: Session) -> None:
    session.client.reset()
    session.splice.start(b"OK in\r\n", b"", b"")
    while not session.told:
        session.loop.call_soon_from_thread(session.stop)
        session.loop.run()
    assert session.told == ["closed"]


def test_idle_session_is_told_and_then_closed(loop: Loop) -> None:
    with closing(Session(loop, timeout=0.1)) as session:
        session.splice.start(b"", b"", b"")
        session.splice.at_end = session.stop
        loop.run()
        assert session.told == ["idle", "closed"]
        session.until_end()


def test_session_where_something_moves_is_not_idle(loop: Loop) -> None:
    with closing(Session(loop, timeout=0.2)) as session:
        session.splice.start(b"", b"", b"")

        def say() -> None:
            session.server.sock.send(b"x")
            loop.call_later(0.05, say)

        say()
        loop.call_later(0.5, session.stop)
        loop.run()
        assert session.told == []


def test_last_notice_comes_only_in_its_place(session: Session) -> None:
    session.splice.start(b"", b"", b"")
    session.splice.send_last(b'BYE "idle"\r\n')
    assert session.until_client_has(12) == b'BYE "idle"\r\n'

    session.client.takes = False
    session.server.say(bytes(BIG))
    session.until_stuck()
    session.client.takes = True
    while session.client.move():
        pass
    session.splice.send_last(b"BYE in the middle")
    session.until_client_has(12 + BIG)
    assert b"BYE" not in session.client.received[12:]


def test_sessions_do_not_get_the_events_of_those_before_them(loop: Loop) -> None:
    """Both sockets are ready at once; the first event closes the session, and its descriptors
    are opened again by another one before the second event's turn comes."""
    with ExitStack() as stack:
        successors: list[Session] = []

        def succeed() -> None:
            successors.append(stack.enter_context(closing(Session(loop))))
            successors[0].splice.start(b"", b"", b"")

        first = stack.enter_context(closing(Session(loop)))
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

        second.client.say(b"alive")
        second.server.say(b"well")
        assert second.until_server_has(5) == b"alive"
        assert second.until_client_has(4) == b"well"
        assert second.told == []
