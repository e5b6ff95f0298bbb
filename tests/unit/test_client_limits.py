"""Connections and wrong guesses of client addresses, shared by all workers."""

import subprocess
import sys

import pytest

from perdition.client_limits import FORGET_SECONDS, MIN_DELAY, ClientLimits

HOME, ELSEWHERE = "192.0.2.1", "2001:db8::1"


@pytest.fixture
def clients() -> ClientLimits:
    return ClientLimits(workers=2)


def test_connections_are_counted_over_all_workers(clients: ClientLimits) -> None:
    clients.change_connections(HOME, +1)
    clients.use_share(1)
    clients.change_connections(HOME, +1)
    clients.change_connections(HOME, +1)
    clients.change_connections(HOME, -1)
    assert (clients.connections(HOME), clients.connections(ELSEWHERE)) == (2, 0)


def test_connections_of_a_dead_worker_are_forgotten(clients: ClientLimits) -> None:
    clients.change_connections(HOME, +1)
    clients.use_share(1)
    clients.change_connections(HOME, +1)
    clients.shares[0].clear_connections()
    assert clients.connections(HOME) == 1


def test_each_wrong_guess_increases_the_delay(clients: ClientLimits) -> None:
    delays = [clients.record_failure(HOME, b"joe", b"guess %d" % guess) for guess in range(6)]
    assert delays == [2, 4, 8, 15, 15, 15]


def test_guesses_are_counted_over_all_workers(clients: ClientLimits) -> None:
    clients.record_failure(HOME, b"joe", b"one")
    clients.use_share(1)
    assert clients.record_failure(HOME, b"joe", b"two") == 4


def test_repeated_wrong_password_does_not_increase_the_delay(clients: ClientLimits) -> None:
    delays = []
    for worker in (0, 1, 0, 1):
        clients.use_share(worker)
        delays.append(clients.record_failure(HOME, b"joe", b"changed last week"))
    assert delays == [2, 2, 2, 2]


def counted(clients: ClientLimits) -> int:
    """How many guesses from HOME are counted, over all workers."""
    cell, _ = clients.cells(HOME.encode())
    return sum(share.failures[cell] for share in clients.shares)


@pytest.mark.parametrize("worker", [0, 1])
def test_ten_wrong_passwords_in_turn_are_counted_once_each(
    worker: int, clients: ClientLimits
) -> None:
    """As of several mail clients with old passwords at one address."""
    old = [b"old password %d" % number for number in range(10)]
    for password in old:
        clients.record_failure(HOME, b"joe", password)
    clients.use_share(worker)
    for password in old * 3:
        clients.record_failure(HOME, b"joe", password)
    assert counted(clients) == len(old)
    clients.record_failure(HOME, b"joe", b"a guess")
    assert counted(clients) == len(old) + 1


def test_two_wrong_passwords_in_turn_do_not_increase_the_delay(clients: ClientLimits) -> None:
    passwords = (b"old", b"older") * 3
    delays = [clients.record_failure(HOME, b"joe", password) for password in passwords]
    assert delays == [2, 4, 4, 4, 4, 4]


def test_eleventh_wrong_guess_replaces_the_oldest(clients: ClientLimits) -> None:
    for number in range(11):
        clients.record_failure(HOME, b"joe", b"guess %d" % number)
    clients.record_failure(HOME, b"joe", b"guess 1")
    assert counted(clients) == 11
    clients.record_failure(HOME, b"joe", b"guess 0")
    assert counted(clients) == 12


class Clock:
    """The monotonic clock of a test."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("perdition.client_limits.monotonic", clock)
    return clock


def make_guesses(clients: ClientLimits) -> None:
    for guess in range(6):
        clients.record_failure(HOME, b"joe", b"guess %d" % guess)


def test_failures_expire_after_a_minute_without_another(
    clients: ClientLimits, clock: Clock
) -> None:
    make_guesses(clients)
    clock.seconds += FORGET_SECONDS + 1
    assert clients.record_failure(HOME, b"joe", b"another guess") == MIN_DELAY


def test_repeated_wrong_password_does_not_restore_expired_failures(
    clients: ClientLimits, clock: Clock
) -> None:
    make_guesses(clients)
    clock.seconds += FORGET_SECONDS + 1
    delays = [clients.record_failure(HOME, b"joe", b"guess 0") for _ in range(2)]
    assert delays == [MIN_DELAY, MIN_DELAY]


def test_failures_at_one_worker_expire_while_there_are_others(
    clients: ClientLimits, clock: Clock
) -> None:
    make_guesses(clients)
    clock.seconds += FORGET_SECONDS
    clients.use_share(1)
    clients.record_failure(HOME, b"joe", b"guess 0")
    clock.seconds += 1
    clients.use_share(0)
    assert clients.record_failure(HOME, b"joe", b"guess 0") <= 2 * MIN_DELAY


def test_guess_made_again_after_it_has_expired_counts(clients: ClientLimits, clock: Clock) -> None:
    clients.record_failure(HOME, b"joe", b"guess")
    clock.seconds += FORGET_SECONDS + 1
    delays = [clients.record_failure(HOME, b"joe", guess) for guess in (b"new", b"guess")]
    assert delays == [MIN_DELAY, 2 * MIN_DELAY]


def test_memory_of_a_worker_is_small(clients: ClientLimits) -> None:
    assert len(clients.own.memory) < 2**20


def test_one_password_for_many_users_increases_the_delay(clients: ClientLimits) -> None:
    users = (b"ann", b"joe", b"max")
    assert [clients.record_failure(HOME, user, b"12345") for user in users] == [2, 4, 8]


def test_guesses_from_another_address_do_not_count(clients: ClientLimits) -> None:
    for guess in range(5):
        clients.record_failure(HOME, b"joe", b"guess %d" % guess)
    assert clients.record_failure(ELSEWHERE, b"joe", b"guess") == 2


@pytest.mark.parametrize(
    ("other", "delay"),
    [("2001:db8::2", 4), ("2001:db8:0:ffff::1", 4), ("2001:db8::1%eth0", 4), ("2001:db8:1::1", 2)],
)
def test_guesses_from_one_ipv6_network_count_together(
    other: str, delay: int, clients: ClientLimits
) -> None:
    clients.record_failure("2001:db8::1", b"joe", b"one")
    assert clients.record_failure(other, b"joe", b"two") == delay


@pytest.mark.parametrize(
    ("other", "count"),
    [("2001:db8::2", 1), ("2001:db8:0:ffff::1", 1), ("2001:db8::1%eth0", 1), ("2001:db8:1::1", 0)],
)
def test_connections_from_one_ipv6_network_count_together(
    other: str, count: int, clients: ClientLimits
) -> None:
    clients.change_connections("2001:db8::1", +1)
    assert clients.connections(other) == count


def test_hashes_are_secret_whatever_the_hash_seed_of_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PYTHONHASHSEED in the environment would make Python's own hashes predictable."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    code = "from perdition.client_limits import *; print(ClientLimits(1).keyed_hash(b'joe'))"
    hashes = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
    assert len(hashes) == 2


def test_shared_memory_holds_no_password(clients: ClientLimits) -> None:
    clients.record_failure(HOME, b"joe", b"hunter2")
    assert b"hunter2" not in bytes(clients.own.memory)
