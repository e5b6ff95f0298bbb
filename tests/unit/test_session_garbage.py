"""A whole session leaves no reference cycles: thousands per second would cost much CPU time."""

import gc
import socket
from collections.abc import Iterator
from threading import Thread

import pytest

from perdition.cli import parse
from perdition.client_limits import ClientLimits
from perdition.endpoint import ConnectionEnds
from perdition.log import Log
from perdition.net.loop import Loop
from perdition.net.tls_contexts import TLSContexts
from perdition.options.configuration import Configuration
from perdition.popmap.kinds import open_map
from perdition.popmap.service import PopMapService
from perdition.scoreboard import Scoreboard, WorkerCounters
from perdition.session import Session
from perdition.site import Site
from tests.unit.recorded_log import RecordedLog

SESSIONS = 10


def serve(listener: socket.socket) -> None:
    """Be a POP3 server for one client."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as lines:
        connection.sendall(b"+OK ready\r\n")
        for line in lines:
            connection.sendall(b"+OK\r\n")
            if line == b"QUIT\r\n":
                return


def use(address: tuple[str, int]) -> None:
    """Log in over POP3 and log out."""
    with socket.create_connection(address) as connection, connection.makefile("rb") as lines:
        for command in (b"USER joe", b"PASS secret", b"QUIT"):
            assert lines.readline().startswith(b"+OK")
            connection.sendall(command + b"\r\n")
        assert lines.read().count(b"+OK") == 1


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    """The listening socket of the real server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def site(bare_loop: Loop, upstream: socket.socket) -> Site:
    server = f"127.0.0.1:{upstream.getsockname()[1]}"
    command_line = parse(["-M", "", "-f", "", "--connect_relog", "60", "-s", server])
    options = Configuration("perdition.pop3", command_line).read()
    log = Log("perdition.pop3", RecordedLog())
    return Site.open(
        bare_loop,
        options,
        log,
        popmap=PopMapService(bare_loop, open_map(options), options, log),
        tls=TLSContexts(),
        client_limits=ClientLimits(workers=1),
        counters=WorkerCounters(Scoreboard(1).rows[0]),
    )


def run_session(site: Site, upstream: socket.socket) -> None:
    """Serve one client from greeting to closing line."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [
            Thread(target=serve, args=(upstream,)),
            Thread(target=use, args=(listener.getsockname(),)),
        ]
        for thread in threads:
            thread.start()
        sock, peer = listener.accept()
        sock.setblocking(False)
        ends = ConnectionEnds.between(peer, sock.getsockname())
        session = Session(site, sock, ends, lambda _: site.loop.stop())
        site.loop.run_until_done(spawn(site, session))
        site.loop.run()
        for thread in threads:
            thread.join()


async def spawn(site: Site, session: Session) -> None:
    site.loop.spawn(session.run())


def test_sessions_leave_nothing_for_the_garbage_collector(
    site: Site, upstream: socket.socket
) -> None:
    run_session(site, upstream)  # imports modules, fills caches
    gc.collect()
    gc.disable()
    try:
        for _ in range(SESSIONS):
            run_session(site, upstream)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found
