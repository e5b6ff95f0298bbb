"""The loop: timers, tasks and watched descriptors."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import pytest

from perdition.net.loop import READ, TICK, Handler, Loop, Timers
from tests.unit.loops import run

YEAR = 365 * 24 * 3600


def stop(loop: Loop) -> None:
    loop.running = False


def run_due(timers: Timers, now: float) -> None:
    """Run the timers that are due."""
    while timer := timers.pop(now):
        timer.action()


class TestTimers:
    @pytest.mark.parametrize("when", [0.0, 0.05, 0.1, 0.3, 17.7, 12345.6789, 1e9])
    def test_never_early_and_at_most_a_tick_late(self, when: float) -> None:
        timers, done = Timers(), list[float]()
        timers.add(when, lambda: done.append(when))

        run_due(timers, when - 0.001)
        assert not done
        run_due(timers, when + TICK + 1e-6)
        assert done == [when]
        run_due(timers, when + 100)
        assert done == [when]

    def test_earlier_timers_expire_first(self) -> None:
        timers, done = Timers(), list[int]()
        for when in (3, 1, 4, 2, 5):
            timers.add(when, partial(done.append, when))
        run_due(timers, 4.5)
        assert done == [1, 2, 3, 4]

    def test_next_is_the_time_of_the_earliest_timer_left(self) -> None:
        timers = Timers()
        assert timers.next() is None
        first, second = (timers.add(when, lambda: None) for when in (1.0, 2.0))
        assert timers.next() == pytest.approx(1.0 + TICK)
        timers.cancel(first)
        timers.cancel(first)
        assert timers.next() == pytest.approx(2.0 + TICK)
        timers.cancel(second)
        assert timers.next() is None

    def test_timer_cancelled_by_another_of_its_tick_does_not_expire(self) -> None:
        timers, done = Timers(), list[int]()

        def expire(number: int) -> None:
            done.append(number)
            timers.cancel(pair[1 - number])

        pair = [timers.add(1.0, partial(expire, number)) for number in range(2)]
        run_due(timers, 2.0)
        assert len(done) == 1

    def test_timer_set_by_another_waits_for_its_own_time(self) -> None:
        timers, done = Timers(), list[str]()

        def set_another() -> None:
            timers.add(2.0, partial(done.append, "later"))

        timers.add(1.0, set_another)
        run_due(timers, 1.5)
        assert not done
        run_due(timers, 2.5)
        assert done == ["later"]

    def test_expired_timer_can_be_cancelled(self) -> None:
        timers = Timers()
        timer = timers.add(1.0, lambda: timers.cancel(timer))
        run_due(timers, 2.0)
        timers.cancel(timer)
        assert timers.next() is None


class TestLoop:
    def test_sleeping_tasks_wake_in_the_order_of_their_times(self, loop: Loop) -> None:
        woken: list[float] = []

        async def sleep(seconds: float) -> None:
            await loop.sleep(seconds)
            woken.append(seconds)

        async def all_of_them() -> None:
            for seconds in (0.25, 0.0, 0.12):
                loop.spawn(sleep(seconds))
            await loop.sleep(0.4)

        run(loop, all_of_them())
        assert woken == [0.0, 0.12, 0.25]

    def test_timer_may_be_a_year_away(self, bare_loop: Loop) -> None:
        """As with ``--timeout 31536000``."""
        bare_loop.call_later(YEAR, lambda: None)
        bare_loop.call_soon_from_thread(partial(stop, bare_loop))
        bare_loop.run()
        assert bare_loop.timers.next()

    def test_cancelled_task_cleans_up_and_never_continues(self, loop: Loop) -> None:
        events: list[str] = []

        async def sleeper() -> None:
            try:
                await loop.sleep(0.1)
                events.append("woken")
            finally:
                events.append("cleaned up")

        task = loop.spawn(sleeper())
        task.cancel()
        assert events == ["cleaned up"]
        assert not loop.tasks
        task.cancel()
        run(loop, loop.sleep(0.2))
        assert events == ["cleaned up"]

    def test_ended_task_is_forgotten(self, loop: Loop) -> None:
        run(loop, loop.sleep(0))
        assert not loop.tasks

    def test_error_in_a_task_is_raised(self, loop: Loop) -> None:
        async def fail() -> None:
            await loop.sleep(0)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run(loop, fail())
        assert not loop.tasks

    def test_calls_from_threads_run_in_order(self, loop: Loop) -> None:
        done: list[int] = []

        def from_thread() -> None:
            for number in range(100):
                loop.call_soon_from_thread(partial(done.append, number))
            loop.call_soon_from_thread(partial(stop, loop))

        thread = threading.Thread(target=from_thread)
        thread.start()
        loop.run()
        thread.join()
        assert done == list(range(100))

    def test_call_that_raises_is_reported_and_the_next_one_runs(self, loop: Loop) -> None:
        faults, done = list[Exception](), list[str]()

        def fail() -> None:
            raise ZeroDivisionError

        loop.on_error = faults.append
        loop.call_soon_from_thread(fail)
        loop.call_soon_from_thread(partial(done.append, "second"))
        loop.call_later(0.1, partial(stop, loop))  # no other wake-up comes before
        loop.run()

        assert [type(fault) for fault in faults] == [ZeroDivisionError]
        assert done == ["second"]


class RecordingHandler(Handler):
    """A handler that counts its calls, runs an action, and stops the loop."""

    def __init__(self, loop: Loop, action: Callable[[], None] = lambda: None) -> None:
        self.loop = loop
        self.calls = 0
        self.action = action

    def ready(self, events: int) -> None:
        self.calls += 1
        self.action()
        stop(self.loop)

    def fail(self) -> None:
        raise AssertionError("the handler failed")


class TestWatching:
    @pytest.fixture
    def pair(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        ours, theirs = socket.socketpair()
        with closing(ours), closing(theirs):
            yield ours, theirs

    def test_handler_is_called_until_nothing_is_watched(
        self, loop: Loop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        handler = RecordingHandler(loop)
        loop.watch(ours.fileno(), READ, handler)
        theirs.send(b"x")
        loop.run()
        loop.run()
        assert handler.calls == 2

        loop.watch(ours.fileno(), 0, handler)
        loop.watch(ours.fileno(), 0, handler)
        run(loop, loop.sleep(0))
        assert handler.calls == 2

    def test_new_handler_replaces_the_old_one(
        self, loop: Loop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        old, new = RecordingHandler(loop), RecordingHandler(loop)
        loop.watch(ours.fileno(), READ, old)
        loop.watch(ours.fileno(), READ, new)
        theirs.send(b"x")
        loop.run()
        assert (old.calls, new.calls) == (0, 1)

    def test_reused_descriptor_does_not_get_the_event_of_the_closed_one(self, loop: Loop) -> None:
        """Two are ready at once; the first handler closes the other socket and opens a new one."""
        pairs = [socket.socketpair() for _ in range(2)]
        late = RecordingHandler(loop)

        def replace(victim: int) -> None:
            if len(pairs) > 2:
                return
            descriptor = pairs[victim][0].fileno()
            loop.watch(descriptor, 0, late)
            pairs[victim][0].close()
            pairs.append(socket.socketpair())
            assert pairs[2][0].fileno() == descriptor
            loop.watch(descriptor, READ, late)

        for number, (ours, theirs) in enumerate(pairs):
            theirs.send(b"x")
            loop.watch(ours.fileno(), READ, RecordingHandler(loop, partial(replace, 1 - number)))
        loop.run()
        for ours, theirs in pairs:
            ours.close()
            theirs.close()
        assert len(pairs) == 3
        assert late.calls == 0
