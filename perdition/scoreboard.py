"""The scoreboard: counters in shared memory, one row per worker, that every process can read.

Only the worker writes to its row, or the master while the worker is dead, so there are no locks. A
worker that replaces a dead one continues to count from the same values.
"""

import itertools
import mmap
import time
from bisect import bisect_left
from collections.abc import Iterable
from enum import IntEnum, StrEnum
from types import TracebackType

from perdition.failure import FAILURES, Failure


class Column(IntEnum):
    """The columns of a row that have no label; others are defined below."""

    SESSIONS = 0
    """Client connections that are open now."""
    TOKENS = 1
    """Tokens of the connection limit that this worker holds now."""
    ESTABLISHED = 2
    """Sessions whose clients are logged in now."""
    CONNECTIONS = 3
    """Client connections that were served."""
    STARTED = 4
    """How often this worker was started."""
    DIED = 5
    """How often this worker has died unexpectedly."""
    HEARTBEATS = 6
    """Incremented while the worker's event loop runs."""


GAUGES = (Column.SESSIONS, Column.TOKENS, Column.ESTABLISHED)
"""Columns that can decrease; they are cleared when the worker dies."""


class Stage(StrEnum):
    """Stages of a login whose time is measured."""

    MAP = "map"
    LOCAL_AUTHENTICATION = "local_authentication"
    CONNECT = "connect"
    LOGIN = "login"


class PopMapAnswer(StrEnum):
    """Results of popmap queries."""

    FOUND = "found"
    MISSING = "missing"
    UNAVAILABLE = "unavailable"


class Limit(StrEnum):
    """Limits that refuse or delay a client."""

    CONNECTIONS = "connection_limit"
    CONNECTIONS_PER_CLIENT = "connections_per_client"
    DESCRIPTORS = "descriptors"
    MEMORY = "memory"


class Direction(StrEnum):
    """Directions of bytes, in the words of the Close line."""

    RECEIVED = "received"
    SENT = "sent"


class Peer(StrEnum):
    """Peers that perdition has connections with."""

    CLIENT = "client"
    REAL_SERVER = "real_server"


OK_LABEL = "ok"
OTHER_VERSION = "other"
TLS_VERSION_LABELS = ("SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3", OTHER_VERSION)
"""OpenSSL's names."""

MILLISECOND = 1_000_000
BOUNDS = tuple(
    count * MILLISECOND
    for count in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
)
"""Upper bounds of the histogram's buckets in nanoseconds."""

columns = itertools.count(len(Column))


def assign_columns(values: Iterable[str]) -> dict[str, int]:
    """Return a new column for each value of a label."""
    return {value: next(columns) for value in values}


LOGINS = assign_columns((OK_LABEL, *(failure.label for failure in FAILURES)))
POPMAP_ANSWERS = assign_columns(PopMapAnswer)
LIMITS = assign_columns(Limit)
BYTES = assign_columns(Direction)
TLS_LOGINS = {peer: assign_columns(TLS_VERSION_LABELS) for peer in Peer}
TIMES = {stage: [next(columns) for _ in (*BOUNDS, "longer")] for stage in Stage}
"""For each stage, the columns of the histogram's buckets."""
TOTAL_TIMES = assign_columns(Stage)
"""In nanoseconds."""
WIDTH = next(columns)


class Scoreboard:
    """A table of 64-bit counters."""

    def __init__(self, rows: int) -> None:
        self.memory = mmap.mmap(-1, rows * WIDTH * 8)
        cells = memoryview(self.memory).cast("Q")
        self.rows = [cells[row * WIDTH : (row + 1) * WIDTH] for row in range(rows)]

    def total(self, column: int) -> int:
        """Return the sum of a column over all workers."""
        return sum(row[column] for row in self.rows)

    def clear_gauges(self, row: int) -> int:
        """Clear the gauges of a worker that has died; return how many tokens it held."""
        held = self.rows[row][Column.TOKENS]
        for gauge in GAUGES:
            self.rows[row][gauge] = 0
        return held


class WorkerCounters:
    """Counts in the row of one worker.

    ``transferred`` are the two cells of bytes received from clients and sent to them.
    """

    def __init__(self, row: memoryview) -> None:
        self.row = row
        self.transferred = (self.cell(BYTES[Direction.RECEIVED]), self.cell(BYTES[Direction.SENT]))

    def cell(self, column: int) -> memoryview:
        """Return one cell of the row."""
        return self.row[column : column + 1]

    def connected(self, has_token: bool = False) -> None:
        """Count a new session, and its token of the connection limit if it has one."""
        self.row[Column.CONNECTIONS] += 1
        self.row[Column.SESSIONS] += 1
        self.row[Column.TOKENS] += has_token

    def disconnected(self, has_token: bool = False) -> None:
        """Count the end of a session."""
        self.row[Column.SESSIONS] -= 1
        self.row[Column.TOKENS] -= has_token

    def limit_hit(self, limit: Limit) -> None:
        """Count a client that was refused, or has to wait."""
        self.row[LIMITS[limit]] += 1

    def popmap_answered(self, answer: PopMapAnswer) -> None:
        self.row[POPMAP_ANSWERS[answer]] += 1

    def timed(self, stage: Stage) -> "StageTimer":
        """Return a context manager that measures the time of a stage."""
        return StageTimer(self.row, stage)

    def login_failed(self, failure: Failure) -> None:
        self.row[LOGINS[failure.label]] += 1

    def logged_in(self, client_tls: str, server_tls: str) -> None:
        """Count a login; TLS versions are OpenSSL's names, or "" for plain text."""
        self.row[LOGINS[OK_LABEL]] += 1
        self.row[Column.ESTABLISHED] += 1
        for peer, version in ((Peer.CLIENT, client_tls), (Peer.REAL_SERVER, server_tls)):
            if version:
                columns = TLS_LOGINS[peer]
                self.row[columns.get(version, columns[OTHER_VERSION])] += 1

    def logged_out(self) -> None:
        """Count the end of an established session."""
        self.row[Column.ESTABLISHED] -= 1


class StageTimer:
    """Measures the time of a stage, however it ends."""

    __slots__ = ("began", "row", "stage")

    def __init__(self, row: memoryview, stage: Stage) -> None:
        self.row = row
        self.stage = stage

    def __enter__(self) -> None:
        self.began = time.monotonic_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        took = time.monotonic_ns() - self.began
        self.row[TIMES[self.stage][bisect_left(BOUNDS, took)]] += 1
        self.row[TOTAL_TIMES[self.stage]] += took


def sessions_text(sessions: int) -> str:
    """Return a number of sessions in words, for titles, the log and service managers."""
    return f"{sessions} session" if sessions == 1 else f"{sessions} sessions"
