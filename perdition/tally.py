"""What sessions tell the scoreboard."""

import time
from bisect import bisect_left
from types import TracebackType

from perdition.failure import Failure
from perdition.process.scoreboard import (
    BOUNDS,
    LIMITS,
    LOGINS,
    OCTETS,
    OK,
    OTHER,
    POPMAP_ANSWERS,
    TIMES,
    TLS_LOGINS,
    TOTAL_TIMES,
    Answer,
    Counter,
    Direction,
    Limit,
    Peer,
    Stage,
)


class Tally:
    """Counts in a worker's row.

    ``octets`` are two cells that sessions add what they move to: received from clients, and sent.
    """

    def __init__(self, row: memoryview) -> None:
        self.row = row
        self.octets = (self.cell(OCTETS[Direction.RECEIVED]), self.cell(OCTETS[Direction.SENT]))

    def cell(self, column: int) -> memoryview:
        """Return a single cell of the row."""
        return self.row[column : column + 1]

    def connected(self) -> None:
        """A client is served."""
        self.row[Counter.CONNECTIONS] += 1

    def limit_hit(self, limit: Limit) -> None:
        """A client is not served, or not yet."""
        self.row[LIMITS[limit]] += 1

    def popmap_answered(self, answer: Answer) -> None:
        """The popmap was asked for a user's real server."""
        self.row[POPMAP_ANSWERS[answer]] += 1

    def stage(self, stage: Stage) -> "Stopwatch":
        """Return a context that a stage of a login takes place in."""
        return Stopwatch(self.row, stage)

    def login_failed(self, failure: Failure) -> None:
        """A client was refused."""
        self.row[LOGINS[failure.label]] += 1

    def logged_in(self, client_tls: str, server_tls: str) -> None:
        """A client is logged in; TLS versions are OpenSSL's names, or "" for plain text."""
        self.row[LOGINS[OK]] += 1
        self.row[Counter.ESTABLISHED] += 1
        for peer, version in ((Peer.CLIENT, client_tls), (Peer.REAL_SERVER, server_tls)):
            if version:
                columns = TLS_LOGINS[peer]
                self.row[columns.get(version, columns[OTHER])] += 1

    def left(self) -> None:
        """A client that was logged in has gone."""
        self.row[Counter.ESTABLISHED] -= 1


class Stopwatch:
    """Takes the time of a stage, however it ends."""

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
