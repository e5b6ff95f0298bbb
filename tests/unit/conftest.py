"""Loops for tests of what runs on them."""

import os
from collections.abc import Iterator

import pytest

from perdition.net.loop import Loop

TOO_LONG = 20.0


@pytest.fixture
def bare_loop() -> Iterator[Loop]:
    """A loop without any timers; closed at the end, as perdition's own never is."""
    loop = Loop()
    yield loop
    loop.selector.close()
    os.close(loop.callbacks.descriptor)


@pytest.fixture
def loop(bare_loop: Loop) -> Loop:
    """A loop that complains where a test would hang."""

    def complain() -> None:
        raise AssertionError(f"nothing has ended the loop for {TOO_LONG} s")

    bare_loop.call_later(TOO_LONG, complain)
    return bare_loop
