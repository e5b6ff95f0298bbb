"""The scoreboard as metrics, by Prometheus's conventions for names, units and labels."""

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from perdition import __version__
from perdition.scoreboard import (
    BOUNDS,
    BYTES,
    LIMITS,
    LOGINS,
    POPMAP_ANSWERS,
    TIMES,
    TLS_LOGINS,
    TOTAL_TIMES,
    Column,
    Scoreboard,
    Stage,
)

Columns = dict[tuple[str, ...], int]
"""Columns of the scoreboard by label values."""

NANOSECOND = 1e-9


class ScoreboardCollector(Collector):
    """Reads the scoreboard at each scrape. Every metric has the label ``protocol``."""

    def __init__(self, scoreboard: Scoreboard, protocol: str) -> None:
        self.scoreboard = scoreboard
        self.protocol = protocol

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "perdition_build",
            "Version of the running perdition.",
            {"version": __version__, "protocol": self.protocol},
        )
        yield self.sessions()
        for name, help_text, column in (
            ("connections", "Client connections that were served.", Column.CONNECTIONS),
            ("workers_started", "Workers that were started.", Column.STARTED),
            ("workers_died", "Workers that died unexpectedly.", Column.DIED),
        ):
            yield self.counters(name, help_text, (), {(): column})
        for name, help_text, label, columns in (
            ("logins", "Login attempts by result.", "result", LOGINS),
            ("popmap_answers", "Popmap queries by answer.", "answer", POPMAP_ANSWERS),
            (
                "session_bytes",
                "Bytes from and to logged-in clients.",
                "direction",
                BYTES,
            ),
            ("limits_hit", "How often a limit refused or delayed a client.", "limit", LIMITS),
        ):
            by_label: Columns = {(value,): column for value, column in columns.items()}
            yield self.counters(name, help_text, (label,), by_label)
        by_peer: Columns = {
            (peer.value, version): column
            for peer, columns in TLS_LOGINS.items()
            for version, column in columns.items()
        }
        help_text = "Successful logins over TLS, by side and TLS version."
        yield self.counters("tls_logins", help_text, ("peer", "version"), by_peer)
        yield self.times()

    def counters(
        self,
        name: str,
        help_text: str,
        labels: tuple[str, ...],
        columns: Columns,
    ) -> Metric:
        """Return a family of counters, one for each combination of label values."""
        family = CounterMetricFamily(f"perdition_{name}", help_text, labels=("protocol", *labels))
        for values, column in columns.items():
            family.add_metric((self.protocol, *values), self.scoreboard.total(column))
        return family

    def sessions(self) -> Metric:
        help_text = "Open sessions, before login or established."
        family = GaugeMetricFamily("perdition_sessions", help_text, labels=("protocol", "state"))
        established = self.scoreboard.total(Column.ESTABLISHED)
        # Workers keep counting while we read: at worst, a session appears established too early.
        before = max(0, self.scoreboard.total(Column.SESSIONS) - established)
        for state, count in (("before_login", before), ("established", established)):
            family.add_metric((self.protocol, state), count)
        return family

    def times(self) -> Metric:
        family = HistogramMetricFamily(
            "perdition_login_stage_duration_seconds",
            "Duration of login stages, successful or not.",
            labels=("protocol", "stage"),
        )
        bounds = [str(bound * NANOSECOND) for bound in BOUNDS]
        for stage in Stage:
            buckets, count = [], 0
            for bound, column in zip((*bounds, "+Inf"), TIMES[stage], strict=True):
                count += self.scoreboard.total(column)
                buckets.append((bound, float(count)))
            seconds = self.scoreboard.total(TOTAL_TIMES[stage]) * NANOSECOND
            family.add_metric((self.protocol, stage.value), buckets, seconds)
        return family
