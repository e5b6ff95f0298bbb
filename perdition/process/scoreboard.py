"""Counters that every process can read: one row a worker, in memory shared before the fork.

A row is written by its worker alone, and by the master while it has none, so nobody locks anything.
What only grows outlives a worker: the next one in its place goes on counting from there.
"""

import itertools
import mmap
from collections.abc import Iterable
from enum import IntEnum, StrEnum

from perdition.failure import FAILURES


class Counter(IntEnum):
    """The columns of a row that stand alone; others come by the families below."""

    SESSIONS = 0
    """Connections of clients that are open now."""
    TOKENS = 1
    """Tokens of the connection limit that are taken now."""
    ESTABLISHED = 2
    """Sessions whose clients are logged in now."""
    CONNECTIONS = 3
    """Connections of clients that were served."""
    STARTED = 4
    """Workers that were started in this place."""
    DIED = 5
    """Workers that have died here unasked."""
    BEATS = 6
    """Goes up while the worker's loop turns; who stands still for long is stuck."""


GAUGES = (Counter.SESSIONS, Counter.TOKENS, Counter.ESTABLISHED)
"""What goes down again, and to nothing when the worker dies."""


class Stage(StrEnum):
    """What a login's time goes to."""

    MAP = "map"
    LOCAL_AUTHENTICATION = "local_authentication"
    CONNECT = "connect"
    LOGIN = "login"


class Answer(StrEnum):
    """What a popmap has for a user."""

    FOUND = "found"
    MISSING = "missing"
    UNAVAILABLE = "unavailable"


class Limit(StrEnum):
    """What keeps a client from being served."""

    CONNECTIONS = "connection_limit"
    CONNECTIONS_PER_CLIENT = "connections_per_client"
    DESCRIPTORS = "descriptors"
    MEMORY = "memory"


class Direction(StrEnum):
    """Where octets go, in the words of the log's Close line."""

    RECEIVED = "received"
    SENT = "sent"


class Peer(StrEnum):
    """Who is at the other end of a connection."""

    CLIENT = "client"
    REAL_SERVER = "real_server"


OK = "ok"
OTHER = "other"
TLS_VERSIONS = ("SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3", OTHER)
"""As OpenSSL calls them."""

MILLISECOND = 1_000_000
BOUNDS = tuple(
    count * MILLISECOND
    for count in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
)
"""The buckets' upper bounds in nanoseconds: from a map in memory to a real server's last second."""

columns = itertools.count(len(Counter))


def family(values: Iterable[str]) -> dict[str, int]:
    """Return a column for each value of a label."""
    return {value: next(columns) for value in values}


LOGINS = family((OK, *(failure.label for failure in FAILURES)))
POPMAP_ANSWERS = family(Answer)
LIMITS = family(Limit)
OCTETS = family(Direction)
TLS_LOGINS = {peer: family(TLS_VERSIONS) for peer in Peer}
TIMES = {stage: [next(columns) for _ in (*BOUNDS, "longer")] for stage in Stage}
"""For each stage, how many logins took it up to which bound, and how many longer."""
TOTAL_TIMES = family(Stage)
"""In nanoseconds."""
WIDTH = next(columns)


class Scoreboard:
    """A table of 64-bit counters."""

    def __init__(self, rows: int) -> None:
        self.memory = mmap.mmap(-1, rows * WIDTH * 8)
        cells = memoryview(self.memory).cast("Q")
        self.rows = [cells[row * WIDTH : (row + 1) * WIDTH] for row in range(rows)]

    def total(self, column: int) -> int:
        """Return what all workers have in a column."""
        return sum(row[column] for row in self.rows)

    def take_back_tokens(self, row: int) -> int:
        """Clear the gauges of a worker that is no more; return how many tokens it held."""
        held = self.rows[row][Counter.TOKENS]
        for gauge in GAUGES:
            self.rows[row][gauge] = 0
        return held


def in_words(sessions: int) -> str:
    """Return a number of sessions as titles, the log and service managers are told it."""
    return f"{sessions} session" if sessions == 1 else f"{sessions} sessions"
