"""The popmap of a local daemon: requests and answers are datagrams."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.failure import MapUnavailable, StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap.backends.daemon import DaemonMap, request
from perdition.popmap.kinds import open_map

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)
SIX = ConnectionEnds("2001:db8::1", 4242, "2001:db8::9", 143)

Reply = Callable[[bytes], list[bytes]]


def answer(*strings: bytes, flags: int = 2, magic: int = 0x07070707, extra: int = 0) -> bytes:
    """A datagram as the daemon sends it."""
    body = b"".join(struct.pack(">H", len(text)) + text for text in strings)
    length = 24 + len(body) + extra
    return struct.pack(">IHHHHIIHH", magic, 1, flags, length, 0, 0, 0, 0, 0) + body


class ScriptedDaemon:
    """A daemon with scripted replies; it keeps the requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.requests: list[bytes] = []
        self.reply: Reply = lambda _: []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            received, peer = self.socket.recvfrom(65_535)
            if not received:
                return
            self.requests.append(received)
            for datagram in self.reply(received):
                self.socket.sendto(datagram, peer)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"", str(self.path))
        self.thread.join()
        self.socket.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    daemon = ScriptedDaemon(tmp_path / "socket")
    yield daemon
    daemon.close()


def opened(option: object) -> PopMap:
    return open_map(Options(map_library="daemon", map_library_opt=str(option)))


@pytest.mark.parametrize(
    ("strings", "expected"),
    [
        ((b"", b"north", b""), Destination(Endpoint("north"))),
        ((b"", b"south", b"1143"), Destination(Endpoint("south", "1143"))),
        ((b"maximilian", b"north", b""), Destination(Endpoint("north"), "maximilian")),
        ((b"", b"", b""), None),
    ],
)
def test_answer_gives_the_destination(
    daemon: ScriptedDaemon, strings: tuple[bytes, ...], expected: Destination | None
) -> None:
    daemon.reply = lambda _: [answer(*strings)]
    assert opened(daemon.path).lookup(Query("joe", ENDS)) == expected
    assert len(daemon.requests) == 1


def test_request_has_the_documented_format() -> None:
    """The expected bytes are written by hand."""
    assert request(Query("joe", ENDS), "@") == (
        b"\x07\x07\x07\x07\x00\x01\x00\x01\x00\x20\x00\x00"
        b"\xc0\x00\x02\x01\xc0\x00\x02\x09\x10\x92\x00\x8f"
        b"\x00\x03joe\x00\x01@"
    )  # fmt: skip


def test_request_has_ipv6_addresses_in_its_body() -> None:
    body = (
        b"\x00\x03joe\x00\x01@"
        b"\x00\x0b2001:db8::1\x00\x044242"
        b"\x00\x0b2001:db8::9\x00\x03143"
    )  # fmt: skip
    head = struct.pack(">IHHHHIIHH", 0x07070707, 1, 3, 24 + len(body), 0, 0, 0, 4242, 143)
    assert request(Query("joe", SIX), "@") == head + body


@pytest.mark.parametrize("key", ["joe\0\x03ann", "joe\r\nann", "\udcff", "x" * 4000])
def test_key_cannot_change_the_rest_of_the_request(daemon: ScriptedDaemon, key: str) -> None:
    """Each string has its length before it."""
    daemon.reply = lambda _: [answer(b"", b"north", b"")]
    opened(daemon.path).lookup(Query(key, ENDS))
    [received] = daemon.requests
    [length] = struct.unpack_from(">H", received, 24)
    assert received[26 : 26 + length] == key.encode(errors="surrogateescape")
    assert received[26 + length :] == b"\x00\x01@"


BROKEN = [
    b"",
    b"short",
    answer(b"", b"nowhere", b"", magic=1),
    answer(b"", b"nowhere", b"", flags=1),
    answer(b"", b"nowhere", b"", extra=1),
    answer(b"", b"nowhere"),
    answer(b"", b"nowhere", b"", b""),
    answer(b"", b"nowhere", b"")[:-1] + b"\xff",
]


def test_malformed_answers_are_ignored(daemon: ScriptedDaemon) -> None:
    daemon.reply = lambda _: [*BROKEN, answer(b"", b"north", b"")]
    assert opened(daemon.path).lookup(Query("joe", ENDS)) == Destination(Endpoint("north"))


def test_lost_request_is_repeated(daemon: ScriptedDaemon) -> None:
    daemon.reply = lambda _: [answer(b"", b"north", b"")] if len(daemon.requests) == 3 else []
    popmap = DaemonMap(str(daemon.path), 1, 2, Options())
    popmap.seconds = 0.05  # the option takes whole seconds only
    assert popmap.lookup(Query("joe", ENDS)) == Destination(Endpoint("north"))


def test_silent_daemon_is_unavailable(daemon: ScriptedDaemon) -> None:
    with pytest.raises(MapUnavailable, match="no answer in time"):
        opened(f"{daemon.path}:1:0").lookup(Query("joe", ENDS))
    assert len(daemon.requests) == 1


def test_missing_daemon_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(MapUnavailable, match="No such file or directory"):
        opened(tmp_path / "none").lookup(Query("joe", ENDS))


def test_option_has_path_timeout_and_retries() -> None:
    popmap = opened("")
    assert isinstance(popmap, DaemonMap)
    assert (popmap.path, popmap.seconds, popmap.retries) == ("/var/run/perdition.db", 1, 5)
    popmap = opened("/run/db:2:3")
    assert isinstance(popmap, DaemonMap)
    assert (popmap.path, popmap.seconds, popmap.retries) == ("/run/db", 2, 3)
    for bad in ("/run/db:x", "/run/db:1:2:3"):
        with pytest.raises(StartupError, match="expected socket:timeout_seconds:max_retry"):
            opened(bad)
