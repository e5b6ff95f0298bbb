"""Loops, and dialogues on them."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from perdition.net.loop import Loop
from tests.unit.scripted_dialogue import DialogueStarter

TOO_LONG = 20.0


@pytest.fixture
def bare_loop() -> Iterator[Loop]:
    """A loop without any timers; closed at the end, as perdition's own never is."""
    loop = Loop()
    yield loop
    loop.selector.close()
    os.close(loop.bell)


@pytest.fixture
def loop(bare_loop: Loop) -> Loop:
    """A loop that complains where a test would hang."""

    def complain() -> None:
        raise AssertionError(f"nothing has ended the loop for {TOO_LONG} s")

    bare_loop.call_later(TOO_LONG, complain)
    return bare_loop


@pytest.fixture
def start_dialogue(loop: Loop) -> Iterator[DialogueStarter]:
    with closing(DialogueStarter(loop)) as starter:
        yield starter
