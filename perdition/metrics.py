"""The scoreboard as Prometheus wants it: names, units and labels by its conventions."""

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
    LIMITS,
    LOGINS,
    OCTETS,
    POPMAP_ANSWERS,
    TIMES,
    TLS_LOGINS,
    TOTAL_TIMES,
    Column,
    Scoreboard,
    Stage,
)

Columns = dict[tuple[str, ...], int]
"""By the values of labels."""

NANOSECOND = 1e-9


class ScoreboardCollector(Collector):
    """Reads the scoreboard at each scrape. ``protocol`` is a label of all that it finds."""

    def __init__(self, scoreboard: Scoreboard, protocol: str) -> None:
        self.scoreboard = scoreboard
        self.protocol = protocol

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "perdition_build",
            "The perdition that runs.",
            {"version": __version__, "protocol": self.protocol},
        )
        yield self.sessions()
        for name, says, column in (
            ("connections", "Connections of clients that were served.", Column.CONNECTIONS),
            ("workers_started", "Workers that were started.", Column.STARTED),
            ("workers_died", "Workers that have died unasked.", Column.DIED),
        ):
            yield self.counters(name, says, (), {(): column})
        for name, says, label, columns in (
            ("logins", "Attempts to log in, by what came of them.", "result", LOGINS),
            ("popmap_answers", "What the popmap had for users.", "answer", POPMAP_ANSWERS),
            ("session_bytes", "Octets from and to logged in clients.", "direction", OCTETS),
            ("limits_hit", "Times that no client could be served.", "limit", LIMITS),
        ):
            by_label: Columns = {(value,): column for value, column in columns.items()}
            yield self.counters(name, says, (label,), by_label)
        by_peer: Columns = {
            (peer.value, version): column
            for peer, columns in TLS_LOGINS.items()
            for version, column in columns.items()
        }
        says = "Successful logins with TLS, by its version on either side."
        yield self.counters("tls_logins", says, ("peer", "version"), by_peer)
        yield self.times()

    def counters(
        self,
        name: str,
        says: str,
        labels: tuple[str, ...],
        columns: Columns,
    ) -> Metric:
        """Return counters of a name, one for each of the labels' values."""
        family = CounterMetricFamily(f"perdition_{name}", says, labels=("protocol", *labels))
        for values, column in columns.items():
            family.add_metric((self.protocol, *values), self.scoreboard.total(column))
        return family

    def sessions(self) -> Metric:
        """Return how many sessions there are now."""
        says = "Sessions that are open now, before the login or established."
        family = GaugeMetricFamily("perdition_sessions", says, labels=("protocol", "state"))
        established = self.scoreboard.total(Column.ESTABLISHED)
        # Workers go on counting while we read: at worst a session looks established too early.
        before = max(0, self.scoreboard.total(Column.SESSIONS) - established)
        for state, count in (("before_login", before), ("established", established)):
            family.add_metric((self.protocol, state), count)
        return family

    def times(self) -> Metric:
        """Return how long the stages of logins took."""
        family = HistogramMetricFamily(
            "perdition_login_stage_duration_seconds",
            "Time that the stages of logins took, however they ended.",
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
