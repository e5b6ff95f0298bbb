"""Threads for what would block the loop; each kind of resource has a pool of its own."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from perdition.net.loop import Loop, Task, Timer, suspend

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")


class ThreadPoolFull(Exception):
    """A pool has as many calls waiting as it may."""


class ThreadPool:
    """Threads for calls that block, and a bound on how many calls may wait for one."""

    def __init__(self, loop: Loop, name: str, threads: int, waiting: int) -> None:
        self.loop = loop
        self.name = name
        self.threads = threads
        self.limit = threads + waiting
        self.calls = 0

    @cached_property
    def executor(self) -> "ThreadPoolExecutor":
        """The threads; neither they nor their library are there before the first call."""
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(self.threads, self.name)

    async def call(self, seconds: float, function: Callable[..., T], *arguments: object) -> T:
        """Return what the function returns, or raise what it raises.

        Raises TimeoutError after some seconds (0: never), PoolFull at once if too many wait.
        The thread of a call that nobody waits for any more is busy until the call returns.
        """
        if self.calls >= self.limit:
            raise ThreadPoolFull(f"{self.calls} calls are waiting already")
        self.calls += 1
        future = self.executor.submit(function, *arguments)
        future.add_done_callback(self.count_down)

        def arm(task: Task) -> Callable[[], None]:
            return self.await_result(task, future, seconds)

        await suspend(arm)
        return future.result()

    def count_down(self, _: "Future[Any]") -> None:
        """Note that a call has ended (in its thread; the loop's thread counts)."""
        self.loop.call_soon_from_thread(self.ended)

    def ended(self) -> None:
        """Make room for another call."""
        self.calls -= 1

    def await_result(self, task: Task, future: "Future[Any]", seconds: float) -> Callable[[], None]:
        """Wake the task when the future is done or its time is over, whichever comes first."""
        timer: Timer | None = None
        awaited = True

        def disarm() -> None:
            nonlocal awaited
            awaited = False
            future.cancel()  # it may still wait for a thread
            if timer:
                self.loop.timers.cancel(timer)

        def done() -> None:
            if awaited:
                disarm()
                task.wake()

        def late() -> None:
            disarm()
            task.wake(error=TimeoutError())

        if seconds:
            timer = self.loop.call_later(seconds, late)
        future.add_done_callback(lambda _: self.loop.call_soon_from_thread(done))
        return disarm
