"""Thread pools: results, errors, timeouts and limits."""

import threading
from collections.abc import Iterator

import pytest

from perdition.net.loop import Loop
from perdition.net.thread_pool import ThreadPool, ThreadPoolFull
from tests.unit.loops import run

YEAR = 365 * 24 * 3600


@pytest.fixture
def free() -> Iterator[threading.Event]:
    """The event that blocking calls wait for; set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_call_returns_the_result(loop: Loop) -> None:
    pool = ThreadPool(loop, "test", threads=2, waiting=0)
    assert run(loop, pool.call(0, divmod, 7, 2)) == (3, 1)
    assert run(loop, pool.call(YEAR, divmod, 7, 2)) == (3, 1)


def test_call_raises_the_error(loop: Loop) -> None:
    pool = ThreadPool(loop, "test", threads=1, waiting=0)
    with pytest.raises(ZeroDivisionError):
        run(loop, pool.call(0, divmod, 7, 0))


def test_call_that_takes_too_long_times_out(loop: Loop, free: threading.Event) -> None:
    pool = ThreadPool(loop, "test", threads=1, waiting=1)
    with pytest.raises(TimeoutError):
        run(loop, pool.call(0.01, free.wait))


def test_late_result_is_discarded(loop: Loop, free: threading.Event) -> None:
    pool = ThreadPool(loop, "test", threads=1, waiting=1)

    async def impatient() -> str:
        with pytest.raises(TimeoutError):
            await pool.call(0.01, free.wait)
        free.set()
        return await pool.call(0, str, "next")

    assert run(loop, impatient()) == "next"


def test_full_pool_refuses_at_once_and_other_pools_continue(
    loop: Loop, free: threading.Event
) -> None:
    full = ThreadPool(loop, "full", threads=1, waiting=1)
    other = ThreadPool(loop, "other", threads=1, waiting=0)

    async def wait() -> None:
        await full.call(0, free.wait)

    async def call_three_times() -> str:
        for _ in range(2):
            loop.spawn(wait())
        with pytest.raises(ThreadPoolFull):
            await full.call(0, str, "no room")
        return await other.call(0, str, "room")

    assert run(loop, call_three_times()) == "room"


def test_finished_calls_free_their_threads(loop: Loop) -> None:
    pool = ThreadPool(loop, "test", threads=1, waiting=0)

    async def one_by_one() -> list[str]:
        return [await pool.call(0, str, number) for number in range(20)]

    assert run(loop, one_by_one()) == [str(number) for number in range(20)]


def test_call_that_timed_out_before_it_began_leaves_the_queue(
    loop: Loop, free: threading.Event
) -> None:
    pool = ThreadPool(loop, "test", threads=1, waiting=1)

    async def busy() -> None:
        await pool.call(0, free.wait)

    async def give_up() -> None:
        loop.spawn(busy())
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await pool.call(0.01, str, "never")
            await loop.sleep(0)

    run(loop, give_up())


def test_cancelled_task_gets_no_result(loop: Loop, free: threading.Event) -> None:
    pool = ThreadPool(loop, "test", threads=1, waiting=1)
    results: list[bool] = []

    async def ask() -> None:
        results.append(await pool.call(0, free.wait))

    async def cancel() -> str:
        loop.spawn(ask()).cancel()
        free.set()
        return await pool.call(0, str, "next")

    assert run(loop, cancel()) == "next"
    assert not results
