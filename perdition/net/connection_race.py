"""Attempts to connect to one of several addresses, staggered as in RFC 8305, section 5."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Generic, TypeVar

from perdition.net.loop import Loop, Task, Timer, suspend
from perdition.net.resolver import Address

T = TypeVar("T")
Attempt = Callable[[], Awaitable[T]]

ATTEMPT_DELAY = 0.25
"""Seconds until the next attempt starts while others are running (RFC 8305, section 8)."""


class AllAttemptsFailed(Exception):
    """No attempt has succeeded; ``errors`` are in the order in which the attempts failed."""

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__()
        self.errors = errors


async def first_success(loop: Loop, attempts: Sequence[Attempt[T]]) -> T:
    """Return the result of the first attempt that succeeds, and cancel all others.

    Raises AllAttemptsFailed.
    """
    race: Race[T] = Race(loop)
    try:
        return await race.run(attempts)
    finally:
        race.cancel()


class Race(Generic[T]):
    """Attempts that run at the same time, each in a task of its own."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.tasks: list[Task] = []
        self.results: list[T] = []
        self.errors: list[Exception] = []
        self.waiter: Task | None = None
        self.has_news = False

    async def run(self, attempts: Iterable[Attempt[T]]) -> T:
        """Start the attempts: the next one after ATTEMPT_DELAY, or at once when one has failed."""
        for attempt in attempts:
            self.tasks.append(self.loop.spawn(self.record(attempt)))
            await self.wait_for_news(ATTEMPT_DELAY)
            if self.results:
                return self.results[0]
        while len(self.errors) < len(self.tasks):
            await self.wait_for_news(0)
            if self.results:
                return self.results[0]
        raise AllAttemptsFailed(self.errors)

    async def record(self, attempt: Attempt[T]) -> None:
        """Run an attempt, and pass its outcome to the waiting task."""
        try:
            self.results.append(await attempt())
        except Exception as error:  # noqa: BLE001 - the others may still succeed
            self.errors.append(error)
        self.has_news = True
        if self.waiter:
            self.waiter.answer()

    async def wait_for_news(self, seconds: float) -> None:
        """Wait until an attempt has ended, or for some seconds (0: no limit)."""

        def arm(task: Task) -> Callable[[], None]:
            self.waiter = task
            timer: Timer | None = None
            if seconds:
                timer = self.loop.call_later(seconds, task.answer)

            def disarm() -> None:
                self.waiter = None
                if timer:
                    self.loop.timers.cancel(timer)

            return disarm

        if not self.has_news:
            await suspend(arm)
        self.has_news = False

    def cancel(self) -> None:
        """Cancel all attempts that are still running."""
        for task in self.tasks:
            task.cancel()


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses with alternating families (RFC 8305, section 4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    return [address for row in zip_longest(*families.values()) for address in row if address]
