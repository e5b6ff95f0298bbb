"""Run a coroutine on a loop."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from perdition.net.loop import Loop

T = TypeVar("T")


def run(loop: Loop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return its result."""
    results: list[T] = []

    async def whole() -> None:
        results.append(await coroutine)
        loop.running = False

    def begin() -> None:
        loop.spawn(whole())

    loop.call_soon_from_thread(begin)
    loop.run()
    return results[0]
