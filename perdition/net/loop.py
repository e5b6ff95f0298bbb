"""The event loop: coroutines on a selector, in the only thread of a worker.

Every ``await`` ends in ``suspend``, with a function that arranges when the task continues.
Blocking calls run in a ``net.thread_pool``.
"""

import heapq
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

TICK = 0.1
"""Resolution of timers in seconds: they expire up to one tick late."""


class Cancelled(BaseException):
    """Thrown into a task that must end now: it may clean up, but not wait."""


class Handler:
    """Handles the events of a descriptor."""

    __slots__ = ()

    def ready(self, events: int) -> None:
        """Handle readiness for READ, WRITE or both."""
        raise NotImplementedError

    def fail(self) -> None:
        """Clean up after ``ready`` has raised an unexpected exception, which is logged."""


class Timer:
    """An action and the tick in which it is due."""

    __slots__ = ("action", "tick")

    def __init__(self, tick: int, action: Callable[[], None]) -> None:
        self.tick = tick
        self.action = action


class Timers:
    """Timers in one bucket per tick: setting or cancelling one costs a dictionary entry.

    Nearly all timers are cancelled; a heap would keep each of them until it expires.
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
        """Cancel a timer, which may have expired already."""
        if bucket := self.buckets.get(timer.tick):
            bucket.pop(timer, None)
            if not bucket:  # an emptied dictionary would keep its memory
                self.buckets[timer.tick] = {}

    def next(self) -> float | None:
        """Return the time of the first timer, or None."""
        while self.ticks and not self.buckets[self.ticks[0]]:
            del self.buckets[heapq.heappop(self.ticks)]
        return self.ticks[0] * TICK if self.ticks else None

    def pop(self, now: float) -> Timer | None:
        """Remove and return a timer that is due, or None."""
        while self.ticks and self.ticks[0] * TICK <= now:
            if bucket := self.buckets[self.ticks[0]]:
                return bucket.popitem()[0]
            del self.buckets[heapq.heappop(self.ticks)]
        return None


LONGEST_SLEEP = 3600.0
"""Maximum timeout in seconds that is passed to the selector."""

Arm = Callable[["Task"], Callable[[], None]]
"""Arranges for a task to continue; returns a function that cancels the arrangement."""


@coroutine
def suspend(arm: Arm) -> Generator[Arm, Any, Any]:
    """Suspend the current task until ``wake`` or ``answer`` is called on it."""
    return (yield arm)


class Task:
    """A coroutine that runs on an event loop."""

    __slots__ = ("coroutine", "disarm", "loop")

    def __init__(self, loop: "Loop", coroutine: Coroutine[Arm, Any, None]) -> None:
        self.loop = loop
        self.coroutine = coroutine
        self.disarm: Callable[[], None] | None = None

    def wake(self, value: object = None, error: BaseException | None = None) -> None:
        """Run the coroutine until it waits again or ends."""
        self.disarm = None
        caller, self.loop.current = self.loop.current, self
        try:
            while not self.disarm:
                arm = self.coroutine.throw(error) if error else self.coroutine.send(value)
                try:
                    self.disarm = arm(self)
                except OSError as failure:  # the descriptor cannot be watched
                    error = failure
        except (StopIteration, Cancelled):
            self.loop.tasks.discard(self)
        except BaseException:
            self.loop.tasks.discard(self)
            raise
        finally:
            self.loop.current = caller

    def answer(self, value: object = None, error: BaseException | None = None) -> None:
        """Cancel what the task waits for, and continue it with a value or an error."""
        if self.disarm:
            self.disarm()
            self.wake(value, error)

    def cancel(self) -> None:
        """End the task at the point where it waits."""
        self.answer(error=Cancelled())


class Loop:
    """The event loop with its tasks and timers."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.now = time.monotonic()
        self.timers = Timers()
        self.tasks: set[Task] = set()
        self.current: Task | None = None
        self.on_error: Callable[[Exception], None] = self.reraise
        """Called with unexpected exceptions of handlers, timers and callbacks."""
        self.running = False
        self.callbacks = Callbacks(self)
        self.selector.register(self.callbacks.descriptor, READ, self.callbacks)

    def spawn(self, coroutine: Coroutine[Arm, Any, None]) -> Task:
        """Start a task: run a coroutine until it waits, and later whenever it can continue."""
        task = Task(self, coroutine)
        self.tasks.add(task)
        task.wake()
        return task

    def run(self) -> None:
        """Run until ``stop`` is called."""
        self.running = True
        while self.running:
            due = self.timers.next()
            seconds = LONGEST_SLEEP if due is None else due - self.now
            ready = self.selector.select(min(max(0.0, seconds), LONGEST_SLEEP))
            self.now = time.monotonic()
            for key, events in ready:
                try:
                    key.data.ready(events)
                except Exception as error:  # noqa: BLE001 - one session must not end others
                    self.on_error(error)
                    key.data.fail()
            while timer := self.timers.pop(self.now):
                try:
                    timer.action()
                except Exception as error:  # noqa: BLE001 - as above
                    self.on_error(error)

    def run_until_done(self, coroutine: Coroutine[Arm, Any, T]) -> T:
        """Run a coroutine to its end and return its result."""
        results: list[T] = []

        async def run_and_stop() -> None:
            results.append(await coroutine)
            self.stop()

        def start() -> None:
            self.spawn(run_and_stop())

        self.call_soon_from_thread(start)
        self.run()
        return results[0]

    def reraise(self, error: Exception) -> None:
        """End the loop with the exception: the default of ``on_error``."""
        raise error

    def stop(self) -> None:
        """Return from ``run`` after the current events."""
        self.running = False

    def watch(self, descriptor: int, events: int, handler: Handler) -> None:
        """Call the handler when the descriptor is ready for one of the events (0: stop watching).

        It costs a system call only if the events differ from those watched before. A descriptor
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
        """Call the action after some seconds, at most one TICK late."""
        return self.timers.add(self.now + seconds, action)

    async def sleep(self, seconds: float) -> None:
        """Suspend the current task for some seconds."""

        def arm(task: Task) -> Callable[[], None]:
            timer = self.call_later(seconds, task.wake)
            return lambda: self.timers.cancel(timer)

        await suspend(arm)

    def call_soon_from_thread(self, action: Callable[[], None]) -> None:
        """Have the loop call an action; the only method for other threads and signal handlers."""
        self.callbacks.add(action)


class Callbacks(Handler):
    """Actions queued by other threads and signal handlers, and the eventfd that wakes the loop."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.queue: deque[Callable[[], None]] = deque()
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def add(self, action: Callable[[], None]) -> None:
        self.queue.append(action)
        os.eventfd_write(self.descriptor, 1)

    def ready(self, events: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        while self.queue:
            action = self.queue.popleft()
            try:
                action()
            except Exception as error:  # noqa: BLE001 - the actions queued after it must run
                self.loop.on_error(error)
