"""Waiting for a condition, with a deadline and a message."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 20.0
"""Seconds that a step of a test may take, even on a busy machine."""

_PAUSE = 0.02


def until(
    look: Callable[[], T | None], what: str | Callable[[], str], deadline: float = DEADLINE
) -> T:
    """Wait until *look* returns something true, and return that. *what* says what was expected."""
    end = time.monotonic() + deadline
    while not (found := look()):
        if time.monotonic() > end:
            complaint = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {deadline:g} s: {complaint}")
        time.sleep(_PAUSE)
    return found
