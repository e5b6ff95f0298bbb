"""Threads for calls that would block the loop; each kind of resource has its own pool."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from perdition.net.loop import Loop, Task, Timer, suspend

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")


class ThreadPoolFull(Exception):
    """As many calls as allowed are already running or waiting."""


class ThreadPool:
    """Threads for blocking calls. At most ``waiting`` more calls may wait for a thread."""

    def __init__(self, loop: Loop, name: str, threads: int, waiting: int) -> None:
        self.loop = loop
        self.name = name
        self.threads = threads
        self.limit = threads + waiting
        self.calls = 0

    @cached_property
    def executor(self) -> "ThreadPoolExecutor":
        """The threads. The first call imports their module and starts them."""
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(self.threads, self.name)

    async def call(self, seconds: float, function: Callable[..., T], *arguments: object) -> T:
        """Return what the function returns, or raise what it raises.

        Raises TimeoutError after ``seconds`` (0: never), and ThreadPoolFull at once if too many
        calls are waiting. After a timeout the thread stays busy until its call returns.
        """
        if self.calls >= self.limit:
            raise ThreadPoolFull(f"{self.calls} calls are running or waiting (limit {self.limit})")
        self.calls += 1
        future = self.executor.submit(function, *arguments)
        future.add_done_callback(self.call_ended)

        def arm(task: Task) -> Callable[[], None]:
            return self.await_result(task, future, seconds)

        await suspend(arm)
        return future.result()

    def call_ended(self, _: "Future[Any]") -> None:
        """Tell the loop that a call has ended; runs in the thread of the call."""
        self.loop.call_soon_from_thread(self.make_room)

    def make_room(self) -> None:
        """Allow another call, after one has ended."""
        self.calls -= 1

    def await_result(self, task: Task, future: "Future[Any]", seconds: float) -> Callable[[], None]:
        """Wake the task when the future is done or the time limit expires."""
        timer: Timer | None = None
        awaited = True

        def disarm() -> None:
            nonlocal awaited
            awaited = False
            future.cancel()  # if it still waits for a thread
            if timer:
                self.loop.timers.cancel(timer)

        def done() -> None:
            if awaited:
                disarm()
                task.wake()

        def expired() -> None:
            disarm()
            task.wake(error=TimeoutError())

        if seconds:
            timer = self.loop.call_later(seconds, expired)
        future.add_done_callback(lambda _: self.loop.call_soon_from_thread(done))
        return disarm
