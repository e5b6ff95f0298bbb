"""Counters that every process can read: one row a worker, in memory shared before the fork.

A row is written by its worker alone, so nobody locks anything.
"""

import mmap
from enum import IntEnum


class Counter(IntEnum):
    """A row's columns."""

    SESSIONS = 0
    """Connections of clients that are open now."""
    TOKENS = 1
    """Tokens of the connection limit that are taken now."""


class Scoreboard:
    """A table of 64-bit counters."""

    def __init__(self, rows: int) -> None:
        self.memory = mmap.mmap(-1, rows * len(Counter) * 8)
        cells = memoryview(self.memory).cast("Q")
        width = len(Counter)
        self.rows = [cells[row * width : (row + 1) * width] for row in range(rows)]

    def take_back_tokens(self, row: int) -> int:
        """Clear the row of a worker that is no more; return how many tokens it held."""
        held = self.rows[row][Counter.TOKENS]
        for counter in Counter:
            self.rows[row][counter] = 0
        return held
