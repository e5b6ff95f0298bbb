"""The scoreboard as Prometheus metrics."""

import pytest
from prometheus_client import CollectorRegistry

from perdition import __version__
from perdition.failure import FAILURES
from perdition.metrics import ScoreboardCollector
from perdition.scoreboard import GAUGES, TIMES, WIDTH, Column, Scoreboard, Stage, WorkerCounters


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(2)


@pytest.fixture
def registry(board: Scoreboard) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(ScoreboardCollector(board, "IMAP4"))
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """The value of one sample."""
    return registry.get_sample_value(f"perdition_{name}", {"protocol": "IMAP4", **labels})


def test_build_info_has_the_version(registry: CollectorRegistry) -> None:
    assert value(registry, "build_info", version=__version__) == 1


def test_counters_of_all_workers_are_added(registry: CollectorRegistry, board: Scoreboard) -> None:
    for row in board.rows:
        WorkerCounters(row).logged_in("TLSv1.2", "")
        row[Column.SESSIONS] = 3
    assert value(registry, "logins_total", result="ok") == 2
    assert value(registry, "tls_logins_total", peer="client", version="TLSv1.2") == 2
    assert value(registry, "sessions", state="before_login") == 4
    assert value(registry, "sessions", state="established") == 2


def test_session_gauge_is_never_negative(registry: CollectorRegistry, board: Scoreboard) -> None:
    board.rows[0][Column.ESTABLISHED] = 1
    assert value(registry, "sessions", state="before_login") == 0


def test_each_failure_has_its_result_label(registry: CollectorRegistry, board: Scoreboard) -> None:
    for failure in FAILURES:
        WorkerCounters(board.rows[1]).login_failed(failure())
        assert value(registry, "logins_total", result=failure.label) == 1


def test_buckets_are_cumulative_and_times_are_seconds(
    registry: CollectorRegistry, board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0, 1_500_000, 0, 2_000_000_000))
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    for row in board.rows:
        with WorkerCounters(row).timed(Stage.LOGIN):
            pass
    name = "login_stage_duration_seconds"
    for bound, count in (("0.001", 0), ("0.002", 1), ("1.0", 1), ("2.0", 2), ("+Inf", 2)):
        assert value(registry, f"{name}_bucket", stage="login", le=bound) == count
    assert value(registry, f"{name}_count", stage="login") == 2
    assert value(registry, f"{name}_sum", stage="login") == pytest.approx(2.0015)


def test_every_counter_is_exported(registry: CollectorRegistry, board: Scoreboard) -> None:
    """The number of samples is bounded by the scoreboard."""
    for column in range(WIDTH):
        board.rows[0][column] = 1
    samples = [sample for family in registry.collect() for sample in family.samples]
    counters = [s for s in samples if s.name.endswith(("_total", "_sum", "_bucket"))]
    only_for_the_master = [Column.HEARTBEATS]
    assert len(counters) == WIDTH - len(GAUGES) - len(only_for_the_master)
    assert all(sample.value for sample in counters)
    counts = [s.value for s in samples if s.name.endswith("_count")]
    assert counts == [len(TIMES[stage]) for stage in Stage]
