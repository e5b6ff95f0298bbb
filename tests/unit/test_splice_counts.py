"""The Close line's counts, in any order of traffic, half-close, close and reset on both sides."""

import os
import socket
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdition.net.loop import Loop
from perdition.net.transport import WantWrite
from tests.unit.test_splice import BIG, SpliceUnderTest, counts, narrow

WELCOMES = (0, 20, BIG)
"""Bytes; the last one is more than the kernel buffers."""
LARGEST_WRITE = BIG
SIZES = st.sampled_from((1, 100, 16_384, 16_385, 70_000, 400_000))


class CountsOfASession(RuleBasedStateMachine):
    """Both peers of a splice do what they like. The counts match what was sent and received.

    ``sent_bytes`` are what the client and the real server have written to their sockets.
    """

    @initialize(
        welcome=st.sampled_from(WELCOMES),
        from_client=SIZES | st.just(0),
        from_server=SIZES | st.just(0),
        client_tls=st.booleans(),
        server_tls=st.booleans(),
        small_buffers=st.booleans(),
    )
    def log_in(
        self,
        welcome: int,
        from_client: int,
        from_server: int,
        client_tls: bool,
        server_tls: bool,
        small_buffers: bool,
    ) -> None:
        self.loop = Loop()
        self.session = SpliceUnderTest(self.loop, tls=server_tls, client_tls=client_tls)
        if small_buffers:
            narrow(self.session.splice.client, self.session.client.sock)
            narrow(self.session.server.sock, self.session.splice.server)
        self.welcome = welcome
        self.unread = bytes(from_client), bytes(from_server)
        self.sent_bytes = [from_client, from_server]
        self.started = False
        self.peers = [self.session.client, self.session.server]
        self.closed = [False, False]
        self.sent_end = [False, False]
        self.cut_off = False
        """Whether a connection was reset, or closed by the splice, so that bytes may be lost."""

    @precondition(lambda self: not self.started)
    @rule()
    def start(self) -> None:
        self.started = True
        self.session.splice.start(bytes(self.welcome), *self.unread)

    @rule(side=st.integers(0, 1), size=SIZES)
    def send(self, side: int, size: int) -> None:
        """Count what was sent; by TLS, a send that is to be repeated may have sent anything."""
        if not (self.closed[side] or self.sent_end[side]):
            try:
                self.sent_bytes[side] += self.peers[side].sock.send(bytes(size))
            except WantWrite:
                self.sent_bytes[side] += size
            except OSError:
                pass

    @precondition(lambda self: self.started)
    @rule(side=st.integers(0, 1))
    def send_more_than_fits(self, side: int) -> None:
        for _ in range(20):
            self.send(side, 400_000)
            self.run_loop(1)

    @rule(side=st.integers(0, 1), size=SIZES)
    def receive(self, side: int, size: int) -> None:
        peer = self.peers[side]
        if not self.closed[side]:
            with suppress(OSError):
                data = peer.sock.recv(size)
                peer.received += data
                peer.received_end |= not data

    @rule(side=st.integers(0, 1))
    def half_close(self, side: int) -> None:
        if not (self.closed[side] or self.sent_end[side]):
            self.sent_end[side] = True
            with suppress(OSError):
                self.peers[side].send_end()

    @rule(side=st.integers(0, 1), how=st.sampled_from(("stay", "stay", "stay", "close", "reset")))
    def leave(self, side: int, how: str) -> None:
        if not (self.closed[side] or how == "stay"):
            self.closed[side] = self.cut_off = True
            if how == "reset":
                self.peers[side].reset()
            else:
                self.peers[side].sock.close()

    @precondition(lambda self: self.started)
    @rule(expired=st.sampled_from((False, False, False, True)))
    def time_out(self, expired: bool) -> None:
        """The idle timeout or the end of the drain timeout closes the session."""
        if not expired:
            return
        self.cut_off |= not self.session.splice.closed
        self.session.splice.close()

    @rule(times=st.integers(1, 5))
    def run_loop(self, times: int) -> None:
        for _ in range(times):
            self.loop.call_soon_from_thread(self.session.stop)
            self.loop.run()

    @invariant()
    def counts_are_what_was_forwarded(self) -> None:
        if not hasattr(self, "session"):
            return
        received, sent = counts(self.session.splice)
        assert 0 <= received <= self.sent_bytes[0]
        assert 0 <= sent <= self.sent_bytes[1]
        assert ([received], [sent]) == self.session.splice.totals
        welcome = self.welcome - self.session.splice.down.uncounted
        for peer, count in zip(self.peers, (welcome + sent, received), strict=True):
            # TLS counts a write when it is complete, and a session may be cut off before that.
            incomplete = 0 if isinstance(peer.sock, socket.socket) else LARGEST_WRITE
            assert len(peer.received) <= count + incomplete
            if peer.received_end and not (incomplete or self.cut_off):
                assert len(peer.received) == count

    def teardown(self) -> None:
        """Let both sides half-close and read to the end; the counts must hold then, too."""
        if not hasattr(self, "session"):
            return
        if self.started and not self.cut_off:
            for side, peer in enumerate(self.peers):
                if isinstance(peer.sock, socket.socket):
                    self.half_close(side)
                else:  # it would not read after its close_notify
                    self.leave(side, "close")
            self.session.until_closed()
        self.counts_are_what_was_forwarded()
        self.session.close()
        self.loop.selector.close()
        os.close(self.loop.callbacks.descriptor)


CountsOfASession.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
)
TestCountsOfASession = CountsOfASession.TestCase


def test_welcome_that_a_client_never_reads_is_not_subtracted(loop: Loop) -> None:
    session = SpliceUnderTest(loop)
    session.client.reset()
    session.splice.start(bytes(BIG), b"", b"")
    session.splice.close()
    assert counts(session.splice) == (0, 0)
    session.close()
