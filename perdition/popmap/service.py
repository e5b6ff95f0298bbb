"""The popmap as sessions use it: asynchronous lookups with a time limit and a cache."""

from collections.abc import Hashable
from typing import NamedTuple

from perdition.failure import MapUnavailable
from perdition.log import Log
from perdition.net.loop import Loop
from perdition.net.thread_pool import ThreadPool, ThreadPoolFull
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query, SlowLookup

LOOKUP_THREADS = 8
LOOKUP_WAITING = 500
SLOW_LOOKUP_THREADS = 1
SLOW_LOOKUP_WAITING = 100
"""Few, because slow keys of a local map may be an attack."""
CACHE_SIZE = 50_000
"""Answers in the cache; the oldest one is dropped first."""
STALE_SECONDS = 5.0
"""How long an expired answer is used before an unavailable map is queried again."""


class CacheEntry(NamedTuple):
    """An answer, and when it expires (by the loop's clock)."""

    expires: float
    answer: Destination | None


class PopMapService:
    """Queries the popmap for all sessions of a worker; caches answers with ``map_cache``."""

    def __init__(self, loop: Loop, popmap: PopMap, options: Options, log: Log) -> None:
        self.loop = loop
        self.popmap = popmap
        popmap.log_warning = log.warning
        self.log = log
        self.wants_password = popmap.wants_password
        self.time_limit = options.map_timeout
        self.cache_seconds = options.map_cache
        self.cache: dict[Hashable, CacheEntry] = {}
        self.pool = (
            ThreadPool(loop, "popmap", LOOKUP_THREADS, LOOKUP_WAITING)
            if popmap.blocks
            else ThreadPool(loop, "popmap, slow", SLOW_LOOKUP_THREADS, SLOW_LOOKUP_WAITING)
        )

    async def lookup(self, query: Query) -> Destination | None:
        """Return the popmap's answer, from the cache if it has one.

        Raises MapUnavailable (after ``map_timeout`` seconds at the latest) and Rejected.
        """
        if not self.cache_seconds:
            return await self.ask(query)
        key = self.popmap.cache_key(query)
        known = self.cache.get(key)
        if known and known.expires > self.loop.now:
            return known.answer
        try:
            answer = await self.ask(query)
        except MapUnavailable as failure:
            if not known:
                raise
            self.log.warning(f"{failure.detail}; using an expired answer")
            self.remember(key, known.answer, STALE_SECONDS)
            return known.answer
        self.remember(key, answer, self.cache_seconds)
        return answer

    async def ask(self, query: Query) -> Destination | None:
        """Query the popmap itself; raises MapUnavailable, Rejected."""
        look_up = self.popmap.lookup
        if not self.popmap.blocks:
            try:
                return look_up(query)
            except SlowLookup:
                look_up = self.popmap.lookup_in_thread
        try:
            return await self.pool.call(self.time_limit, look_up, query)
        except TimeoutError as error:
            raise MapUnavailable(
                f"popmap: no answer within map_timeout ({self.time_limit} s)"
            ) from error
        except ThreadPoolFull as error:
            raise MapUnavailable(f"popmap: {error}") from error

    def remember(self, key: Hashable, answer: Destination | None, seconds: float) -> None:
        """Cache an answer for some seconds; expired ones stay for when the map is unavailable."""
        self.cache.pop(key, None)
        if len(self.cache) >= CACHE_SIZE:
            del self.cache[next(iter(self.cache))]
        self.cache[key] = CacheEntry(self.loop.now + seconds, answer)

    def close(self) -> None:
        """Close the map; lookups in progress still get their answers."""
        self.popmap.close()

    def reopen(self) -> None:
        """Empty the cache and reopen the map."""
        self.cache.clear()
        self.popmap.reopen()
