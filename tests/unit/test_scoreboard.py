"""The scoreboard: its columns, and what stays after a worker has died."""

import os

import pytest

from perdition import scoreboard
from perdition.failure import FAILURES, LoginDisabled, MapUnavailable, TLSNotPresent
from perdition.scoreboard import (
    BYTES,
    GAUGES,
    LOGINS,
    TIMES,
    TLS_LOGINS,
    WIDTH,
    Column,
    Direction,
    Limit,
    Peer,
    PopMapAnswer,
    Scoreboard,
    Stage,
    WorkerCounters,
)


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(2)


def counted(row: memoryview) -> set[int]:
    """The columns that are not zero."""
    return {column for column, count in enumerate(row) if count}


def test_total_is_the_sum_over_workers(board: Scoreboard) -> None:
    for row in board.rows:
        WorkerCounters(row).connected()
    assert board.total(Column.CONNECTIONS) == 2
    assert [row[Column.CONNECTIONS] for row in board.rows] == [1, 1]


def test_other_processes_see_what_a_worker_counts(board: Scoreboard) -> None:
    if not (pid := os.fork()):
        WorkerCounters(board.rows[1]).connected()
        os._exit(os.EX_OK)
    os.waitpid(pid, 0)
    assert board.total(Column.CONNECTIONS) == 1


def test_each_column_has_one_use() -> None:
    families = [
        *(scoreboard.LOGINS, scoreboard.POPMAP_ANSWERS, scoreboard.LIMITS, scoreboard.BYTES),
        *(scoreboard.TOTAL_TIMES, *TLS_LOGINS.values()),
    ]
    columns = [
        *Column,
        *(column for family in families for column in family.values()),
        *(column for stage in TIMES.values() for column in stage),
    ]
    assert sorted(columns) == list(range(WIDTH))


def test_only_the_gauges_of_a_dead_worker_are_cleared(board: Scoreboard) -> None:
    for row in board.rows:
        for column in range(WIDTH):
            row[column] = 7
    assert board.clear_gauges(0) == 7
    assert {column for column in range(WIDTH) if not board.rows[0][column]} == set(GAUGES)
    assert set(board.rows[1]) == {7}


def test_each_failure_has_a_column_by_its_name(board: Scoreboard) -> None:
    for failure in FAILURES:
        WorkerCounters(board.rows[0]).login_failed(failure())
    assert counted(board.rows[0]) == {LOGINS[failure.label] for failure in FAILURES}
    labels = [failure.label for failure in (LoginDisabled, MapUnavailable, TLSNotPresent)]
    assert labels == ["login_disabled", "map_unavailable", "tls_not_present"]


def test_login_and_end_of_a_session_are_counted(board: Scoreboard) -> None:
    counters = WorkerCounters(board.rows[0])
    counters.logged_in("TLSv1.3", "")
    counters.logged_in("", "TLSv9")
    counters.logged_out()
    assert board.total(LOGINS["ok"]) == 2
    assert board.total(Column.ESTABLISHED) == 1
    assert board.total(TLS_LOGINS[Peer.CLIENT]["TLSv1.3"]) == 1
    assert board.total(TLS_LOGINS[Peer.REAL_SERVER]["other"]) == 1
    assert sum(board.total(column) for column in TLS_LOGINS[Peer.REAL_SERVER].values()) == 1


def test_bytes_are_counted_by_direction(board: Scoreboard) -> None:
    received, sent = WorkerCounters(board.rows[0]).transferred
    received[0] += 5
    sent[0] += 6
    assert board.total(BYTES[Direction.RECEIVED]) == 5
    assert board.total(BYTES[Direction.SENT]) == 6


def test_each_popmap_answer_and_limit_has_its_column(board: Scoreboard) -> None:
    counters = WorkerCounters(board.rows[0])
    for answer in PopMapAnswer:
        counters.popmap_answered(answer)
    for limit in Limit:
        counters.limit_hit(limit)
    assert len(counted(board.rows[0])) == len(PopMapAnswer) + len(Limit)


@pytest.mark.parametrize(
    ("nanoseconds", "bucket"),
    [(0, 0), (1_000_000, 0), (1_000_001, 1), (50_000_000_000, -2), (50_000_000_001, -1)],
)
def test_each_time_is_counted_in_one_bucket(
    nanoseconds: int, bucket: int, board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((100, 100 + nanoseconds))
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    with WorkerCounters(board.rows[0]).timed(Stage.CONNECT):
        pass
    assert board.rows[0][TIMES[Stage.CONNECT][bucket]] == 1
    assert sum(board.rows[0]) == 1 + nanoseconds


def test_time_of_a_failed_stage_is_counted(board: Scoreboard) -> None:
    with pytest.raises(MapUnavailable), WorkerCounters(board.rows[0]).timed(Stage.MAP):
        raise MapUnavailable
    assert sum(board.total(column) for column in TIMES[Stage.MAP]) == 1
