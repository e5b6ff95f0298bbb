"""The popmap as sessions see it: they await an answer, and no map holds up those who need none."""

from typing import NamedTuple

from perdition.failure import MapUnavailable
from perdition.log import Log
from perdition.net.loop import Loop
from perdition.net.thread_pool import ThreadPool, ThreadPoolFull
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query, SlowLookup

LOOKUP_THREADS = 8
LOOKUP_WAITING = 500
LENGTHY_THREADS = 1
LENGTHY_WAITING = 100
"""For keys that take a local map long, which somebody may have made up for that."""
REMEMBERED = 50_000
"""How many keys' answers the cache holds; the oldest goes first."""
STALE_SECONDS = 5.0
"""How long an answer serves again without asking, once the map could not be asked."""


class CacheEntry(NamedTuple):
    """An answer, and until when (by the loop's clock) it is as good as a new one."""

    until: float
    found: Destination | None


class PopMapService:
    """Asks the popmap for all sessions of a worker, and remembers answers where a site wants it."""

    def __init__(self, loop: Loop, popmap: PopMap, options: Options, log: Log) -> None:
        self.loop = loop
        self.popmap = popmap
        self.log = log
        self.wants_password = popmap.wants_password
        self.time_limit = options.map_timeout
        self.fresh_seconds = options.map_cache
        self.cache: dict[str, CacheEntry] = {}
        self.pool = (
            ThreadPool(loop, "popmap", LOOKUP_THREADS, LOOKUP_WAITING)
            if popmap.blocks
            else ThreadPool(loop, "popmap at length", LENGTHY_THREADS, LENGTHY_WAITING)
        )

    async def lookup(self, query: Query) -> Destination | None:
        """Return what the map has for a key, or had, if the cache knows it.

        Raises MapUnavailable, at the latest after ``map_timeout``, and Rejected.
        """
        if not self.fresh_seconds:
            return await self.ask(query)
        known = self.cache.get(query.key)
        if known and known.until > self.loop.now:
            return known.found
        try:
            found = await self.ask(query)
        except MapUnavailable as failure:
            if not known:
                raise
            self.log.warning(f"{failure.detail}; an older answer is used")
            self.remember(query.key, known.found, STALE_SECONDS)
            return known.found
        self.remember(query.key, found, self.fresh_seconds)
        return found

    async def ask(self, query: Query) -> Destination | None:
        """Return what the map has for a key; raises MapUnavailable, Rejected."""
        look_up = self.popmap.lookup
        if not self.popmap.blocks:
            try:
                return look_up(query)
            except SlowLookup:
                look_up = self.popmap.at_length
        try:
            return await self.pool.call(self.time_limit, look_up, query)
        except TimeoutError as error:
            raise MapUnavailable(f"popmap: no answer in {self.time_limit} s") from error
        except ThreadPoolFull as error:
            raise MapUnavailable(f"popmap: {error}") from error

    def remember(self, key: str, found: Destination | None, seconds: float) -> None:
        """Keep an answer for some seconds, and beyond that until another one takes its place."""
        self.cache.pop(key, None)
        if len(self.cache) >= REMEMBERED:
            del self.cache[next(iter(self.cache))]
        self.cache[key] = CacheEntry(self.loop.now + seconds, found)

    def close(self) -> None:
        """Let go of what the map has open; who is still waiting gets an answer."""
        self.popmap.close()

    def reopen(self) -> None:
        """Forget all answers, and open the map anew."""
        self.cache.clear()
        self.popmap.reopen()
