"""Connections and wrong guesses of client addresses, shared by all workers."""

import pytest

from perdition.client_limits import ClientLimits

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


def test_connections_from_one_ipv6_network_are_counted_by_address(clients: ClientLimits) -> None:
    clients.change_connections("2001:db8::1", +1)
    assert clients.connections("2001:db8::2") == 0


def test_shared_memory_holds_no_password(clients: ClientLimits) -> None:
    clients.record_failure(HOME, b"joe", b"hunter2")
    assert b"hunter2" not in bytes(clients.own.memory)
