"""Connections to real servers: several addresses, time limits, and what losers hear."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from perdition.endpoint import Endpoint
from perdition.failure import ConnectFailed
from perdition.log import Log
from perdition.net import connection_race
from perdition.net.loop import Loop
from perdition.net.resolver import Address, Resolver
from perdition.net.stream import Stream
from perdition.options.table import Options
from perdition.options.values import SSLMode, TLSUse
from perdition.scoreboard import Scoreboard, WorkerCounters
from perdition.upstream import Upstream
from tests.unit.loops import run
from tests.unit.recorded_log import RecordedLog

NAME = Endpoint("mail.example", "143")
GREETING = b"* OK hello\r\n"
PROTOCOLS = {"POP3": b"QUIT\r\n", "IMAP4": b"perdition LOGOUT\r\n", "MANAGESIEVE": b"LOGOUT\r\n"}
"""Their names, and how each ends a connection."""


class Names(Resolver):
    """A resolver that has the same addresses for all names."""

    def __init__(self, loop: Loop, addresses: list[Address]) -> None:
        super().__init__(loop, numeric=False)
        self.found = addresses

    async def addresses(self, endpoint: Endpoint) -> list[Address]:
        return self.found


class Servers:
    """Listening sockets of a test, each of which is an address of NAME."""

    def __init__(self, loop: Loop, stack: ExitStack) -> None:
        self.loop = loop
        self.stack = stack
        self.listeners: list[socket.socket] = []
        self.accepted: dict[int, socket.socket] = {}

    def add(self, greeting: bytes | None = None) -> Address:
        """Listen; greet a client if there is a greeting (b"": close the connection)."""
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        number = len(self.listeners)
        self.listeners.append(listener)

        def accept() -> None:
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                self.loop.call_later(0, accept)
                return
            self.accepted[number] = self.stack.enter_context(client)
            if greeting:
                client.sendall(greeting)
            elif greeting is not None:
                client.close()

        self.loop.call_later(0, accept)
        return Address(socket.AF_INET, listener.getsockname())

    def heard(self, number: int) -> bytes:
        """What a server has received until the connection was closed."""
        client = self.accepted[number]
        client.settimeout(20)
        data = b""
        while piece := client.recv(4096):
            data += piece
        return data


@pytest.fixture
def servers(loop: Loop) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(loop, stack)


Connect = Callable[..., Stream]


@pytest.fixture
def connect(loop: Loop) -> Iterator[Connect]:
    """Connects to NAME, which has some addresses, under some options."""
    with ExitStack() as stack:

        def to(addresses: list[Address], **options: Any) -> Stream:
            upstream = Upstream(
                loop,
                Names(loop, addresses),
                Options(**{"protocol": "IMAP4"} | options),
                Log("test", RecordedLog()),
                None,
                WorkerCounters(Scoreboard(1).rows[0]),
            )
            return stack.enter_context(closing(run(loop, upstream.connect(NAME))))

        yield to


def closed_address() -> Address:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Address(socket.AF_INET, listener.getsockname())


def peer(stream: Stream) -> Any:
    """The address that a stream is connected to."""
    assert isinstance(stream.sock, socket.socket)
    return stream.sock.getpeername()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_silent_address_delays_a_login_by_a_quarter_of_a_second_only(
    loop: Loop, servers: Servers, connect: Connect, protocol: str
) -> None:
    silent, good = servers.add(), servers.add(GREETING)
    began = loop.now
    stream = connect([silent, good], protocol=protocol)
    assert loop.now - began < 2
    assert (peer(stream), stream.unread()) == (good.sockaddr, GREETING)


@pytest.mark.parametrize(("protocol", "farewell"), PROTOCOLS.items())
def test_attempt_that_is_not_needed_ends_politely(
    servers: Servers, connect: Connect, protocol: str, farewell: bytes
) -> None:
    """It has sent nothing else."""
    connect([servers.add(), servers.add(GREETING)], protocol=protocol)
    assert servers.heard(0) == farewell


def test_server_with_implicit_tls_need_not_greet(
    loop: Loop, servers: Servers, connect: Connect
) -> None:
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    with full, ExitStack() as stack:
        for _ in range(3):  # the backlog is full: the system answers no further connection
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        good = servers.add()
        stream = connect(
            [Address(socket.AF_INET, full.getsockname()), good],
            ssl_mode=SSLMode(TLSUse.NONE, TLSUse.SSL),
        )
        assert peer(stream) == good.sockaddr


@pytest.mark.parametrize("broken", [None, b""], ids=["closed port", "closed connection"])
def test_address_that_fails_delays_no_login(
    loop: Loop,
    servers: Servers,
    connect: Connect,
    broken: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_race, "ATTEMPT_DELAY", 15.0)
    bad = closed_address() if broken is None else servers.add(broken)
    good = servers.add(GREETING)
    assert peer(connect([bad, good])) == good.sockaddr


def test_first_address_is_used_if_it_answers(servers: Servers, connect: Connect) -> None:
    first, second = servers.add(GREETING), servers.add(GREETING)
    assert peer(connect([first, second])) == first.sockaddr
    assert list(servers.accepted) == [0]


@pytest.mark.parametrize("count", [1, 2])
def test_silent_addresses_fail_after_connect_timeout(
    servers: Servers, connect: Connect, count: int
) -> None:
    silent = [servers.add() for _ in range(count)]
    with pytest.raises(ConnectFailed, match=r"connect_timeout \(1 s\) exceeded"):
        connect(silent, connect_timeout=1)


def test_server_that_has_not_greeted_in_time_gets_no_farewell(
    servers: Servers, connect: Connect
) -> None:
    with pytest.raises(ConnectFailed):
        connect([servers.add()], connect_timeout=1)
    assert servers.heard(0) == b""


def test_shorter_authenticate_timeout_is_named(servers: Servers, connect: Connect) -> None:
    with pytest.raises(ConnectFailed, match=r"authenticate_timeout \(1 s\) exceeded"):
        connect([servers.add()], authenticate_timeout=1)


def test_failure_tells_what_is_wrong_with_each_address(connect: Connect) -> None:
    bad = [closed_address(), Address(socket.AF_INET6, ("::1", 1, 0, 0))]
    with pytest.raises(ConnectFailed) as failed:
        connect(bad)
    assert "127.0.0.1: Connection refused" in failed.value.detail
    assert "; ::1: " in failed.value.detail
