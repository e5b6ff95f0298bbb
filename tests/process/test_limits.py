"""Limits of connections, exact over all workers, and of descriptors."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable

import pytest

from tests.process.conftest import PASSWORD, fails, needs_root
from tests.support.client_connection import PROTOCOLS, OpenClients, RawConnection
from tests.support.perdition import PerditionProcess, Perditions
from tests.support.wait import until

pytestmark = needs_root

LIMIT = 7
MANY = 100
WORKERS = ("--workers", "3")
GREETING = PROTOCOLS["imap4"].greeting

FEW_DESCRIPTORS = 128
"""Many more than a worker without clients needs."""
SOME_TIME = 2.5
"""Seconds in which a busy loop would show."""


def rush(proxy: PerditionProcess, clients: OpenClients, count: int = MANY) -> list[RawConnection]:
    """Connect *count* clients at once, in threads; returns those that get a greeting."""
    found: list[RawConnection] = []
    lock, together = threading.Lock(), threading.Barrier(count)

    def arrive() -> None:
        together.wait()
        connection = clients.connect(proxy, resets=True)
        first = connection.read_line_or_end()
        with lock:
            if first:
                assert re.match(GREETING, first), first
                found.append(connection)

    threads = [threading.Thread(target=arrive) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def expect_room_for(
    proxy: PerditionProcess, clients: OpenClients, count: int
) -> list[RawConnection]:
    """Wait until exactly *count* clients are served."""
    served: list[RawConnection] = []

    def full() -> bool:
        served.extend(rush(proxy, clients, 3))
        return len(served) >= count

    until(full, lambda: f"{count} are served, {len(served)} were\n{proxy.evidence()}")
    served += rush(proxy, clients, MANY)
    assert len(served) == count, f"{len(served)} are served\n{proxy.evidence()}"
    return served


def test_limit_is_exact_when_many_connect_at_once(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Of 100 at once, the limit's number is served, the others are closed without a line."""
    proxy = perditions.start("imap4", *WORKERS, "-L", str(LIMIT))

    served = rush(proxy, clients)

    assert len(served) == LIMIT, proxy.evidence()
    for connection in served:
        connection.ask(b"a NOOP", rb"a OK.*\r\n")
    assert not rush(proxy, clients), "more are served while nobody has left"
    assert sum(proxy.expect_sessions(LIMIT).values()) == LIMIT


def log_out(wires: list[RawConnection]) -> None:
    for connection in wires:
        connection.send(b"z LOGOUT\r\n")
        connection.read_to_end()
        connection.close()


def reset(wires: list[RawConnection]) -> None:
    """As a client that crashes."""
    for connection in wires:
        connection.close()


def disconnect_after_a_failed_login(wires: list[RawConnection]) -> None:
    """Before the answer is sent."""
    for connection in wires:
        connection.send(b"a LOGIN joe wrong\r\n")
    for connection in wires:
        connection.close()


@pytest.mark.parametrize(
    ("leave", "rounds"),
    [(log_out, 3), (reset, 3), (disconnect_after_a_failed_login, 1)],
)
def test_closed_connections_no_longer_count(
    leave: Callable[[list[RawConnection]], None],
    rounds: int,
    perditions: Perditions,
    clients: OpenClients,
) -> None:
    """However clients disconnect, the same number can connect again and again."""
    proxy = perditions.start("imap4", *WORKERS, "-L", str(LIMIT))
    served = expect_room_for(proxy, clients, LIMIT)
    for _ in range(rounds):
        leave(served)
        served = expect_room_for(proxy, clients, LIMIT)


def test_sessions_count_until_they_end(perditions: Perditions, clients: OpenClients) -> None:
    proxy = perditions.start("imap4", *WORKERS, "-L", str(LIMIT))
    for _ in range(2):
        sessions = [clients.log_in(proxy) for _ in range(LIMIT)]
        assert not rush(proxy, clients)
        for session in sessions:
            session.log_out()
        proxy.expect_sessions(0)
    expect_room_for(proxy, clients, LIMIT)


@pytest.mark.slow
def test_connections_of_a_killed_worker_no_longer_count(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Exactly its connections are released; clients of other workers stay."""
    proxy = perditions.start("imap4", *WORKERS, "-L", str(LIMIT))
    for _ in range(2):
        served = expect_room_for(proxy, clients, LIMIT)
        counts = proxy.expect_sessions(LIMIT)
        victim = max(counts, key=lambda pid: counts[pid])

        os.kill(victim, signal.SIGKILL)
        proxy.wait_for_log(rf"\(pid {victim}\) was killed by SIGKILL with {counts[victim]} session")

        ended = [connection for connection in served if has_ended(connection)]
        assert len(ended) == counts[victim], f"{len(ended)} have ended, {counts}"
        places = expect_room_for(proxy, clients, counts[victim])
        reset([connection for connection in (*served, *places) if connection not in ended])
        proxy.expect_sessions(0)


def has_ended(connection: RawConnection) -> bool:
    """Whether a client's connection is closed."""
    return fails(lambda: connection.ask(b"a NOOP", rb"a OK.*\r\n"))


def test_limit_of_one_serves_clients_one_by_one(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Over several workers: clients are served one after the other."""
    proxy = perditions.start("imap4", *WORKERS, "-L", "1")
    for _ in range(5):
        [connection] = expect_room_for(proxy, clients, 1)
        log_out([connection])


def test_zero_means_no_limit(perditions: Perditions, clients: OpenClients) -> None:
    """0 means no limit."""
    proxy = perditions.start("imap4", *WORKERS, "-L", "0")

    assert len(rush(proxy, clients)) == MANY, proxy.evidence()


def test_limit_may_exceed_the_size_of_a_pipe(perditions: Perditions, clients: OpenClients) -> None:
    """A limit above 65536 is in effect or refused; the start does not hang."""
    proxy = perditions.start("imap4", *WORKERS, "-L", "100000")

    assert len(rush(proxy, clients)) == MANY, proxy.evidence()


def test_limit_beyond_the_systems_is_refused(perditions: Perditions) -> None:
    """In one line."""
    told = subprocess.run(
        perditions.new_daemon("imap4", "-L", "99999999999").command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert told.returncode > 0
    [line] = told.stderr.splitlines()
    assert "connection_limit" in line, line


@pytest.mark.slow
def test_worker_without_descriptors_pauses_accepting(
    perditions: Perditions, clients: OpenClients
) -> None:
    """The worker stops accepting for a while, logs one line, and goes on afterwards; clients that
    were accepted can log in: their descriptors are reserved.
    """
    proxy = perditions.start(
        "imap4",
        *("--workers", "1", "--no_bind_banner"),
        prefix=("prlimit", f"--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}"),
    )
    [worker] = proxy.workers()
    crowd = [clients.connect(proxy) for _ in range(FEW_DESCRIPTORS + 20)]
    pattern = (
        r"accepting no clients for 1 s: as many sessions as descriptors allow; \d+ sessions, "
        f"descriptor limit {FEW_DESCRIPTORS}; raise LimitNOFILE or lower connection_limit"
    )
    proxy.wait_for_log(pattern)
    served = [connection for connection in crowd if connection.has_unread()]
    assert 20 < len(served) <= FEW_DESCRIPTORS / 2, f"{len(served)} are served"
    for connection in served:
        connection.read_until(GREETING)
        connection.ask(f"a LOGIN joe {PASSWORD}".encode(), rb"(?m)^a OK.*\r\n")

    before = worker.cpu_seconds()
    watch_for_fault(lambda: len(proxy.logged(pattern)) > 1)
    used = worker.cpu_seconds() - before

    assert used < SOME_TIME / 4, f"{used:.2f} s of CPU in {SOME_TIME} s of nothing to do"
    lines = proxy.logged(pattern)
    for connection in served:
        connection.close()
    for connection in crowd:
        if connection not in served:
            connection.read_until(GREETING)
            connection.close()
    clients.log_in(proxy).use()
    assert [each.pid for each in proxy.workers()] == [worker.pid], proxy.evidence()
    assert len(lines) == 1, f"one line would do: {lines}"


def watch_for_fault(look: Callable[[], bool]) -> None:
    """Return once the fault shows, or after SOME_TIME."""
    try:
        until(look, "", SOME_TIME)
    except AssertionError:
        return


def test_soft_limit_of_descriptors_is_raised(perditions: Perditions) -> None:
    """To the hard limit, at start."""
    proxy = perditions.start("imap4", *WORKERS, prefix=("prlimit", "--nofile=100:2000"))

    for process in proxy.processes():
        assert process.descriptor_limits() == ["2000", "2000"], process
