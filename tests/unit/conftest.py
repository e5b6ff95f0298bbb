"""Loops, and dialogues on them."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from perdition.net.loop import Loop
from tests.unit.scripted_dialogue import DialogueStarter

TOO_LONG = 20.0  # seconds


@pytest.fixture
def bare_loop() -> Iterator[Loop]:
    """A loop without timers."""
    loop = Loop()
    yield loop
    loop.selector.close()
    os.close(loop.callbacks.descriptor)


@pytest.fixture
def loop(bare_loop: Loop) -> Loop:
    """A loop that raises AssertionError in a test that hangs."""

    def hang() -> None:
        raise AssertionError(f"the loop still runs after {TOO_LONG} s")

    bare_loop.call_later(TOO_LONG, hang)
    return bare_loop


@pytest.fixture
def start_dialogue(loop: Loop) -> Iterator[DialogueStarter]:
    with closing(DialogueStarter(loop)) as starter:
        yield starter
