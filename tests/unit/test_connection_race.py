"""Attempts that race: when each starts, which one wins, and how the others end."""

import socket
from functools import partial

import pytest

from perdition.net.connection_race import (
    ATTEMPT_DELAY,
    AllAttemptsFailed,
    Attempt,
    first_success,
    interleaved,
)
from perdition.net.loop import TICK, Cancelled, Loop
from perdition.net.resolver import Address
from tests.unit.loops import run

LONG = 60.0
"""Seconds, far more than a test may take."""


class Course:
    """Attempts, and what has happened to them, with the time since the start."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.began = loop.now
        self.events: list[str] = []
        self.started: dict[str, float] = {}

    def attempt(self, name: str, seconds: float = 0, *, fails: bool = False) -> Attempt[str]:
        return partial(self.run, name, seconds, fails)

    async def run(self, name: str, seconds: float, fails: bool) -> str:
        self.events.append(f"{name} starts")
        self.started[name] = self.loop.now - self.began
        try:
            if seconds:
                await self.loop.sleep(seconds)
        except Cancelled:
            self.events.append(f"{name} cancelled")
            raise
        if fails:
            raise ConnectionRefusedError(name)
        return name


@pytest.fixture
def course(loop: Loop) -> Course:
    return Course(loop)


def test_success_at_once_starts_no_other_attempt(loop: Loop, course: Course) -> None:
    attempts = [course.attempt("a"), course.attempt("b")]
    assert run(loop, first_success(loop, attempts)) == "a"
    assert course.events == ["a starts"]


def test_next_attempt_starts_after_the_delay(loop: Loop, course: Course) -> None:
    attempts = [course.attempt("a", LONG), course.attempt("b", LONG), course.attempt("c")]
    assert run(loop, first_success(loop, attempts)) == "c"
    assert course.events == ["a starts", "b starts", "c starts", "a cancelled", "b cancelled"]
    assert course.started["b"] >= ATTEMPT_DELAY
    assert course.started["c"] >= course.started["b"] + ATTEMPT_DELAY - TICK


def test_earlier_attempt_may_still_win(loop: Loop, course: Course) -> None:
    attempts = [course.attempt("a", ATTEMPT_DELAY + 0.3), course.attempt("b", LONG)]
    assert run(loop, first_success(loop, attempts)) == "a"
    assert course.events == ["a starts", "b starts", "b cancelled"]


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_failure_starts_the_next_attempt(loop: Loop, course: Course, seconds: float) -> None:
    attempts = [course.attempt("a", seconds, fails=True), course.attempt("b")]
    assert run(loop, first_success(loop, attempts)) == "b"
    assert course.started["b"] < ATTEMPT_DELAY


@pytest.mark.parametrize("seconds", [0, 0.01, ATTEMPT_DELAY + 0.3])
def test_all_failures_are_reported(loop: Loop, course: Course, seconds: float) -> None:
    attempts = [course.attempt(name, seconds, fails=True) for name in "abc"]
    with pytest.raises(AllAttemptsFailed) as failed:
        run(loop, first_success(loop, attempts))
    assert [str(error) for error in failed.value.errors] == ["a", "b", "c"]


def test_cancelled_task_leaves_no_attempt(loop: Loop, course: Course) -> None:
    attempts = [course.attempt("a", LONG), course.attempt("b", LONG)]

    async def race() -> None:
        await first_success(loop, attempts)

    async def start_and_cancel() -> None:
        task = loop.spawn(race())
        await loop.sleep(ATTEMPT_DELAY + 2 * TICK)
        task.cancel()

    run(loop, start_and_cancel())
    assert course.events == ["a starts", "b starts", "a cancelled", "b cancelled"]
    assert len(loop.tasks) <= 1  # that of this test


def test_families_take_turns() -> None:
    six = [Address(socket.AF_INET6, (f"2001:db8::{number}", 143)) for number in range(3)]
    four = [Address(socket.AF_INET, ("192.0.2.1", 143))]
    assert interleaved([*six, *four]) == [six[0], four[0], six[1], six[2]]
    assert interleaved([*four, *six]) == [four[0], *six]
