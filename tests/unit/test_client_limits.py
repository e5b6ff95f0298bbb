"""Connections and wrong guesses of client addresses, shared by all workers."""

import pytest

from perdition.clients import Clients

HOME, ELSEWHERE = "192.0.2.1", "2001:db8::1"


@pytest.fixture
def clients() -> Clients:
    return Clients(workers=2)


def test_connections_are_counted_over_all_workers(clients: Clients) -> None:
    clients.connected(HOME, +1)
    clients.belong_to(1)
    clients.connected(HOME, +1)
    clients.connected(HOME, +1)
    clients.connected(HOME, -1)
    assert (clients.connections(HOME), clients.connections(ELSEWHERE)) == (2, 0)


def test_connections_of_a_dead_worker_are_forgotten(clients: Clients) -> None:
    clients.connected(HOME, +1)
    clients.belong_to(1)
    clients.connected(HOME, +1)
    clients.shares[0].clear_connections()
    assert clients.connections(HOME) == 1


def test_each_wrong_guess_increases_the_delay(clients: Clients) -> None:
    delays = [clients.failed(HOME, b"joe", b"guess %d" % guess) for guess in range(6)]
    assert delays == [2, 4, 8, 15, 15, 15]


def test_guesses_are_counted_over_all_workers(clients: Clients) -> None:
    clients.failed(HOME, b"joe", b"one")
    clients.belong_to(1)
    assert clients.failed(HOME, b"joe", b"two") == 4


def test_repeated_wrong_password_does_not_increase_the_delay(clients: Clients) -> None:
    delays = []
    for worker in (0, 1, 0, 1):
        clients.belong_to(worker)
        delays.append(clients.failed(HOME, b"joe", b"changed last week"))
    assert delays == [2, 2, 2, 2]


def test_one_password_for_many_users_increases_the_delay(clients: Clients) -> None:
    assert [clients.failed(HOME, user, b"12345") for user in (b"ann", b"joe", b"max")] == [2, 4, 8]


def test_guesses_from_another_address_do_not_count(clients: Clients) -> None:
    for guess in range(5):
        clients.failed(HOME, b"joe", b"guess %d" % guess)
    assert clients.failed(ELSEWHERE, b"joe", b"guess") == 2


@pytest.mark.parametrize(
    ("other", "delay"),
    [("2001:db8::2", 4), ("2001:db8:0:ffff::1", 4), ("2001:db8::1%eth0", 4), ("2001:db8:1::1", 2)],
)
def test_guesses_from_one_ipv6_network_count_together(
    other: str, delay: int, clients: Clients
) -> None:
    clients.failed("2001:db8::1", b"joe", b"one")
    assert clients.failed(other, b"joe", b"two") == delay


def test_connections_from_one_ipv6_network_are_counted_by_address(clients: Clients) -> None:
    clients.connected("2001:db8::1", +1)
    assert clients.connections("2001:db8::2") == 0


def test_shared_memory_holds_no_password(clients: Clients) -> None:
    clients.failed(HOME, b"joe", b"hunter2")
    assert b"hunter2" not in bytes(clients.own.memory)
