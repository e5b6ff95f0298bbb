"""Coroutines on a selector: the one loop that a worker's only thread runs.

Every ``await`` ends in ``suspend``, with a function that arranges how the task is woken up.
What would block runs in a pool (``net.pool``).
"""

import heapq
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from types import coroutine
from typing import Any, Protocol

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

TICK = 0.1
"""Seconds: timers that fall into the same tick go off together, up to one tick late."""


class Cancelled(BaseException):
    """Thrown into a task that must end now; it may tidy up but not wait."""


class Handler(Protocol):
    """What is told that a descriptor that it watches is ready.

    ``fail`` ends what the handler is there for, after a fault of ours in ``ready``.
    """

    def ready(self, events: int) -> None: ...
    def fail(self) -> None: ...


class Timer:
    """An action that is due at a time."""

    __slots__ = ("action", "tick")

    def __init__(self, tick: int, action: Callable[[], None]) -> None:
        self.tick = tick
        self.action = action


class Timers:
    """Timers in buckets of a tick, so that setting and cancelling one costs a dictionary entry.

    Nearly all timers are cancelled: a heap would keep each of them until its time had come.
    """

    def __init__(self) -> None:
        self.buckets: dict[int, dict[Timer, None]] = {}
        self.ticks: list[int] = []

    def add(self, when: float, action: Callable[[], None]) -> Timer:
        """Set a timer for ``when`` (seconds of the monotonic clock)."""
        timer = Timer(int(when / TICK) + 1, action)
        bucket = self.buckets.get(timer.tick)
        if bucket is None:
            bucket = self.buckets[timer.tick] = {}
            heapq.heappush(self.ticks, timer.tick)
        bucket[timer] = None
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget a timer; it may have gone off already."""
        if bucket := self.buckets.get(timer.tick):
            bucket.pop(timer, None)
            if not bucket:  # a dictionary that has been large stays so
                self.buckets[timer.tick] = {}

    def next(self) -> float | None:
        """Return the time of the next tick that has a timer."""
        while self.ticks and not self.buckets[self.ticks[0]]:
            del self.buckets[heapq.heappop(self.ticks)]
        return self.ticks[0] * TICK if self.ticks else None

    def pop(self, now: float) -> Timer | None:
        """Return a timer that is due, and forget it."""
        while self.ticks and self.ticks[0] * TICK <= now:
            if bucket := self.buckets[self.ticks[0]]:
                return bucket.popitem()[0]
            del self.buckets[heapq.heappop(self.ticks)]
        return None


LONGEST_SLEEP = 3600.0
"""Seconds: selectors cannot count much further."""

Arm = Callable[["Task"], Callable[[], None]]
"""Arranges a task's wake-up; what it returns takes that back."""


@coroutine
def suspend(arm: Arm) -> Generator[Arm, Any, Any]:
    """Stop the current task until what ``arm`` arranges wakes it up."""
    return (yield arm)


class Task:
    """A coroutine that runs on a loop."""

    __slots__ = ("coroutine", "disarm", "loop")

    def __init__(self, loop: "Loop", coroutine: Coroutine[Arm, Any, None]) -> None:
        self.loop = loop
        self.coroutine = coroutine
        self.disarm: Callable[[], None] | None = None

    def wake(self, value: object = None, error: BaseException | None = None) -> None:
        """Let the coroutine go on until it waits again or ends."""
        self.disarm = None
        caller, self.loop.current = self.loop.current, self
        try:
            while not self.disarm:
                arm = self.coroutine.throw(error) if error else self.coroutine.send(value)
                try:
                    self.disarm = arm(self)
                except OSError as mistake:  # the system lets nobody wait for this
                    error = mistake
        except (StopIteration, Cancelled):
            self.loop.tasks.discard(self)
        except BaseException:
            self.loop.tasks.discard(self)
            raise
        finally:
            self.loop.current = caller

    def answer(self, value: object = None, error: BaseException | None = None) -> None:
        """End the task's waiting, with what it waits for or with an error."""
        if self.disarm:
            self.disarm()
            self.wake(value, error)

    def cancel(self) -> None:
        """End the task where it waits."""
        self.answer(error=Cancelled())


class Loop:
    """The loop, its tasks and its timers."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.now = time.monotonic()
        self.timers = Timers()
        self.tasks: set[Task] = set()
        self.current: Task | None = None
        self.on_fault: Callable[[Exception], None] = self.end_by
        self.running = False
        self.finished: deque[Callable[[], None]] = deque()
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.selector.register(self.bell, READ, self)

    def spawn(self, coroutine: Coroutine[Arm, Any, None]) -> Task:
        """Run a coroutine until it first waits, and then whenever it can go on."""
        task = Task(self, coroutine)
        self.tasks.add(task)
        task.wake()
        return task

    def run(self) -> None:
        """Run until it is stopped."""
        self.running = True
        while self.running:
            due = self.timers.next()
            seconds = LONGEST_SLEEP if due is None else due - self.now
            ready = self.selector.select(min(max(0.0, seconds), LONGEST_SLEEP))
            self.now = time.monotonic()
            for key, events in ready:
                try:
                    key.data.ready(events)
                except Exception as error:  # noqa: BLE001 - one session must not end the others
                    self.on_fault(error)
                    key.data.fail()
            while timer := self.timers.pop(self.now):
                try:
                    timer.action()
                except Exception as error:  # noqa: BLE001 - as above
                    self.on_fault(error)

    def end_by(self, error: Exception) -> None:
        """End the loop by a fault of ours, where nobody has put something better in this place."""
        raise error

    def stop(self) -> None:
        """Run no further than the events at hand."""
        self.running = False

    def watch(self, descriptor: int, events: int, handler: Handler) -> None:
        """Tell the handler when the descriptor is ready for one of the events (0: never more).

        Costs a system call only where the events differ from those watched so far. A descriptor
        must not be closed while it is watched.
        """
        try:
            if events:
                self.selector.modify(descriptor, events, handler)
            else:
                self.selector.unregister(descriptor)
        except KeyError:
            if events:
                self.selector.register(descriptor, events, handler)

    def call_later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Set a timer; it goes off at most a tick late."""
        return self.timers.add(self.now + seconds, action)

    async def sleep(self, seconds: float) -> None:
        """Let others run for some seconds."""

        def arm(task: Task) -> Callable[[], None]:
            timer = self.call_later(seconds, task.wake)
            return lambda: self.timers.cancel(timer)

        await suspend(arm)

    def call_soon_from_thread(self, action: Callable[[], None]) -> None:
        """Have the loop do something; the one method that other threads, and signals, may call."""
        self.finished.append(action)
        os.eventfd_write(self.bell, 1)

    def ready(self, events: int) -> None:
        """Do what other threads asked for."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        while self.finished:
            self.finished.popleft()()

    def fail(self) -> None:
        """Go on: what another thread has asked for concerns nobody else."""
