"""Limits: of connections, exact over all workers, and of descriptors."""

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
"""Far more than a worker needs for itself."""
SOME_TIME = 2.5
"""Seconds in which a loop that does not rest would be noticed."""


def rush(proxy: PerditionProcess, clients: OpenClients, count: int = MANY) -> list[RawConnection]:
    """Connect that many clients at once, each in a thread; those that are greeted."""
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
    """Wait until that many are served, and see that it is not one more."""
    served: list[RawConnection] = []

    def full() -> bool:
        served.extend(rush(proxy, clients, 3))
        return len(served) >= count

    until(full, lambda: f"{count} are served, {len(served)} were\n{proxy.evidence()}")
    served += rush(proxy, clients, MANY)
    assert len(served) == count, f"{len(served)} are served\n{proxy.evidence()}"
    return served


def test_exact_in_a_rush(perditions: Perditions, clients: OpenClients) -> None:
    """A hundred at once: as many are served as may be, the others are closed without a word."""
    proxy = perditions.start("imap4", *WORKERS, "-L", str(LIMIT))

    served = rush(proxy, clients)

    assert len(served) == LIMIT, proxy.evidence()
    for connection in served:
        connection.ask(b"a NOOP", rb"a OK.*\r\n")
    assert not rush(proxy, clients), "more are served while nobody has left"
    assert sum(proxy.expect_sessions(LIMIT).values()) == LIMIT


def leave_politely(wires: list[RawConnection]) -> None:
    """By LOGOUT."""
    for connection in wires:
        connection.send(b"z LOGOUT\r\n")
        connection.read_to_end()
        connection.close()


def leave_by_reset(wires: list[RawConnection]) -> None:
    """As a client that crashes."""
    for connection in wires:
        connection.close()


def leave_after_a_failed_login(wires: list[RawConnection]) -> None:
    """While the answer is still due."""
    for connection in wires:
        connection.send(b"a LOGIN joe wrong\r\n")
    for connection in wires:
        connection.close()


@pytest.mark.parametrize(
    ("leave", "rounds"),
    [(leave_politely, 3), (leave_by_reset, 3), (leave_after_a_failed_login, 1)],
)
def test_places_come_back(
    leave: Callable[[list[RawConnection]], None],
    rounds: int,
    perditions: Perditions,
    clients: OpenClients,
) -> None:
    """However clients leave, the same number may come after them, time and again."""
    proxy = perditions.start("imap4", *WORKERS, "-L", str(LIMIT))
    served = expect_room_for(proxy, clients, LIMIT)
    for _ in range(rounds):
        leave(served)
        served = expect_room_for(proxy, clients, LIMIT)


def test_places_of_logged_in_clients_come_back(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Sessions count too, and no longer than they last."""
    proxy = perditions.start("imap4", *WORKERS, "-L", str(LIMIT))
    for _ in range(2):
        sessions = [clients.log_in(proxy) for _ in range(LIMIT)]
        assert not rush(proxy, clients)
        for session in sessions:
            session.log_out()
        proxy.expect_sessions(0)
    expect_room_for(proxy, clients, LIMIT)


def test_places_of_a_killed_worker_come_back(perditions: Perditions, clients: OpenClients) -> None:
    """What it held is free again, no more and no less; the others' clients stay."""
    proxy = perditions.start("imap4", *WORKERS, "-L", str(LIMIT))
    for _ in range(2):
        served = expect_room_for(proxy, clients, LIMIT)
        counts = proxy.expect_sessions(LIMIT)
        victim = max(counts, key=lambda pid: counts[pid])

        os.kill(victim, signal.SIGKILL)
        proxy.wait_for_log(rf"\(pid {victim}\) died of SIGKILL with {counts[victim]} session")

        ended = [connection for connection in served if has_ended(connection)]
        assert len(ended) == counts[victim], f"{len(ended)} have ended, {counts}"
        places = expect_room_for(proxy, clients, counts[victim])
        leave_by_reset([connection for connection in (*served, *places) if connection not in ended])
        proxy.expect_sessions(0)


def has_ended(connection: RawConnection) -> bool:
    """Whether nobody answers there any more."""
    return fails(lambda: connection.ask(b"a NOOP", rb"a OK.*\r\n"))


def test_one_place(perditions: Perditions, clients: OpenClients) -> None:
    """The smallest limit, over several workers: one after the other is served."""
    proxy = perditions.start("imap4", *WORKERS, "-L", "1")
    for _ in range(5):
        [connection] = expect_room_for(proxy, clients, 1)
        leave_politely([connection])


def test_no_limit(perditions: Perditions, clients: OpenClients) -> None:
    """0 means that everybody is served."""
    proxy = perditions.start("imap4", *WORKERS, "-L", "0")

    assert len(rush(proxy, clients)) == MANY, proxy.evidence()


def test_more_than_a_pipe_holds(perditions: Perditions, clients: OpenClients) -> None:
    """A limit beyond 65536 is either in effect or refused, not a start that hangs."""
    proxy = perditions.start("imap4", *WORKERS, "-L", "100000")

    assert len(rush(proxy, clients)) == MANY, proxy.evidence()


def test_limit_that_the_system_cannot_hold(perditions: Perditions) -> None:
    """It is refused in one line."""
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


def test_out_of_descriptors(perditions: Perditions, clients: OpenClients) -> None:
    """Nobody new gets in for a while; the worker rests, says it once, and comes to itself.

    Whoever has got in can log in: what that takes is not given away to others.
    """
    proxy = perditions.start(
        "imap4",
        *("--workers", "1", "--no_bind_banner"),
        prefix=("prlimit", f"--nofile={FEW_DESCRIPTORS}:{FEW_DESCRIPTORS}"),
    )
    [worker] = proxy.workers()
    crowd = [clients.connect(proxy) for _ in range(FEW_DESCRIPTORS + 20)]
    pattern = "Too many open files"
    proxy.wait_for_log(pattern)
    served = [connection for connection in crowd if connection.has_unread()]
    assert 20 < len(served) <= FEW_DESCRIPTORS / 2, f"{len(served)} are served"
    for connection in served:
        connection.read_until(GREETING)
        connection.ask(f"a LOGIN joe {PASSWORD}".encode(), rb"(?m)^a OK.*\r\n")

    before = worker.cpu_seconds()
    wait_for_nothing(lambda: len(proxy.logged(pattern)) > 1)
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


def wait_for_nothing(look: Callable[[], bool]) -> None:
    """Give a fault some time to show; return at once if it does."""
    try:
        until(look, "", SOME_TIME)
    except AssertionError:
        return


def test_descriptors_are_made_use_of(perditions: Perditions) -> None:
    """The soft limit is raised to the hard one at start."""
    proxy = perditions.start("imap4", *WORKERS, prefix=("prlimit", "--nofile=100:2000"))

    for process in proxy.processes():
        assert process.descriptor_limits() == ["2000", "2000"], process
