"""Waiting for something to become true: with a deadline, and saying what did not happen."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 20.0
"""Seconds that anything here may take; a busy machine gets them, a healthy one never needs them."""

_PAUSE = 0.02


def until(
    look: Callable[[], T | None], what: str | Callable[[], str], deadline: float = DEADLINE
) -> T:
    """What *look* finds, once it finds something; *what* is the complaint if it never does."""
    end = time.monotonic() + deadline
    while not (found := look()):
        if time.monotonic() > end:
            complaint = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {deadline:g} s: {complaint}")
        time.sleep(_PAUSE)
    return found
