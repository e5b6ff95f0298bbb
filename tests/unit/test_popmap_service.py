"""The popmap as sessions see it: lookups that wait, time limits, the cache."""

import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.failure import MapUnavailable
from perdition.log import Log
from perdition.net.loop import Loop
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query, SlowLookup
from perdition.popmap import service as service_module
from perdition.popmap.kinds import open_map
from perdition.popmap.service import PopMapService
from tests.unit.recorded_log import RecordedLog

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)
JOE = Query("joe", ENDS)
NORTH = Destination(Endpoint("north"))
SOUTH = Destination(Endpoint("south"))


class LocalMap(PopMap):
    """A map with a scripted answer that counts its lookups."""

    blocks = False

    def __init__(self) -> None:
        self.answer: Destination | None = NORTH
        self.down = False
        self.lookups = 0
        self.thread: threading.Thread | None = None
        self.reopened = 0

    def lookup(self, query: Query) -> Destination | None:
        self.lookups += 1
        self.thread = threading.current_thread()
        if self.down:
            raise MapUnavailable("popmap: down")
        return self.answer

    def reopen(self) -> None:
        self.reopened += 1

    def close(self) -> None:
        pass


class SlowKeysMap(LocalMap):
    """A local map whose lookups are all slow: they run in a thread and wait for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def lookup(self, query: Query) -> Destination | None:
        raise SlowLookup

    def lookup_in_thread(self, query: Query) -> Destination | None:
        assert threading.current_thread() is not threading.main_thread()
        self.gate.wait()
        return super().lookup(query)


class SlowMap(LocalMap):
    """A map whose lookup for joe waits for the gate, and for others does not."""

    blocks = True

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def lookup(self, query: Query) -> Destination | None:
        if query.key == "joe":
            self.gate.wait(20)
        return super().lookup(query)


class PopMapUnderTest:
    """The popmap's service on a loop that runs during lookups only."""

    def __init__(self, popmap: PopMap, **options: Any) -> None:
        self.loop = Loop()
        self.sink = RecordedLog()
        self.service = PopMapService(
            self.loop, popmap, Options(**options), Log("perdition", self.sink)
        )

    def run(self, *lookups: Coroutine[Any, Any, Destination | None]) -> list[Any]:
        """Run lookups at the same time; return what each returned or raised."""
        results: list[Any] = [None] * len(lookups)
        left = len(lookups)

        async def one(number: int, lookup: Coroutine[Any, Any, Destination | None]) -> None:
            nonlocal left
            try:
                results[number] = await lookup
            except MapUnavailable as failure:
                results[number] = failure
            left -= 1
            self.loop.running = bool(left)

        def begin() -> None:
            for number, lookup in enumerate(lookups):
                self.loop.spawn(one(number, lookup))

        self.loop.call_soon_from_thread(begin)
        self.loop.run()
        return results

    def ask(self, query: Query = JOE) -> Any:
        """What one lookup returns or raises."""
        return self.run(self.service.lookup(query))[0]

    def pass_time(self, seconds: float) -> None:
        """Make all entries of the cache that much older."""
        self.service.cache = {
            key: entry._replace(expires=entry.expires - seconds)
            for key, entry in self.service.cache.items()
        }

    def close(self) -> None:
        self.loop.selector.close()
        os.close(self.loop.callbacks.descriptor)


@pytest.fixture
def start() -> Iterator[Callable[..., PopMapUnderTest]]:
    started: list[PopMapUnderTest] = []

    def make(popmap: PopMap, **options: Any) -> PopMapUnderTest:
        started.append(PopMapUnderTest(popmap, **options))
        return started[-1]

    yield make
    for each in started:
        each.close()


StartService = Callable[..., PopMapUnderTest]


def test_local_map_is_asked_without_a_thread(start: StartService) -> None:
    popmap = LocalMap()
    assert start(popmap).ask() == NORTH
    assert popmap.thread is threading.main_thread()


def test_hung_lookup_times_out_and_delays_no_other(start: StartService) -> None:
    """ann's lookup, which begins later, is answered before joe's times out."""
    slow = SlowMap()
    service = start(slow, map_timeout=1)
    order: list[str] = []

    async def recorded(name: str) -> Destination | None:
        try:
            return await service.service.lookup(Query(name, ENDS))
        finally:
            order.append(name)

    joe, ann = service.run(recorded("joe"), recorded("ann"))
    slow.gate.set()
    assert ann == NORTH
    assert isinstance(joe, MapUnavailable)
    assert joe.detail == "popmap: no answer within map_timeout (1 s)"
    assert order == ["ann", "joe"]


def test_slow_lookup_in_a_local_map_does_not_stop_the_loop(start: StartService) -> None:
    """The loop has to run to open the gate."""
    popmap = SlowKeysMap()
    service = start(popmap)

    async def open_gate() -> Destination | None:
        popmap.gate.set()
        return None

    joe, _ = service.run(service.service.lookup(JOE), open_gate())
    assert joe == NORTH


def test_full_pool_refuses_at_once(start: StartService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "LOOKUP_THREADS", 1)
    monkeypatch.setattr(service_module, "LOOKUP_WAITING", 1)
    slow = SlowMap()
    service = start(slow, map_timeout=5)

    async def last() -> Destination | None:
        try:
            return await service.service.lookup(Query("ann", ENDS))
        finally:
            slow.gate.set()  # no other lookup ends before this

    *_, refused = service.run(service.service.lookup(JOE), service.service.lookup(JOE), last())
    assert isinstance(refused, MapUnavailable)
    assert refused.detail == "popmap: 2 calls are running or waiting (limit 2)"
    assert service.ask() == NORTH


def test_map_is_asked_for_each_login_without_a_cache(start: StartService) -> None:
    popmap = LocalMap()
    service = start(popmap)
    service.ask(), service.ask()
    assert popmap.lookups == 2


def test_cache_answers_until_its_entry_expires(start: StartService) -> None:
    popmap = LocalMap()
    service = start(popmap, map_cache=60)
    assert service.ask() == NORTH
    popmap.answer = SOUTH
    assert service.ask() == NORTH
    service.pass_time(60)
    assert service.ask() == SOUTH
    assert popmap.lookups == 2


class WholeQueryMap(LocalMap):
    """A site's own map, which may use everything that a query contains."""

    def lookup(self, query: Query) -> Destination | None:
        super().lookup(query)
        return SOUTH if query.secure else NORTH


@pytest.mark.parametrize(
    "other",
    [
        JOE._replace(secure=True),
        JOE._replace(attempt=2),
        JOE._replace(ends=ENDS._replace(source="192.0.2.2")),
        JOE._replace(ends=ENDS._replace(source_port=4243)),
        JOE._replace(ends=ENDS._replace(destination="192.0.2.8")),
    ],
)
def test_cached_answer_is_used_only_for_the_same_query(start: StartService, other: Query) -> None:
    """A client without TLS must not get the answer for one with TLS."""
    popmap = WholeQueryMap()
    service = start(popmap, map_cache=60)
    expected = [SOUTH if query.secure else NORTH for query in (JOE, other, JOE, other)]
    assert [service.ask(query) for query in (JOE, other, JOE, other)] == expected
    assert popmap.lookups == 2


OPTIONS_OF_KINDS = {
    "gdbm": "/none",
    "cdb": "/none",
    "posix_regex": "/none",
    "sqlite": "/none",
    "daemon": "/none",
    "http": "http://127.0.0.1:9/",
    "/none/site.so": "",
}
KEY_ONLY = {"gdbm", "cdb", "posix_regex", "sqlite"}


@pytest.mark.parametrize("kind", OPTIONS_OF_KINDS)
def test_cache_key_contains_what_the_kind_sends(kind: str) -> None:
    """Kinds that look up the key alone share an answer between all clients."""
    popmap = open_map(Options(map_library=kind, map_library_opt=OPTIONS_OF_KINDS[kind]))
    plain = popmap.cache_key(JOE)
    assert popmap.cache_key(JOE._replace(key="ann")) != plain
    other_client = JOE._replace(ends=ENDS._replace(source="192.0.2.2"))
    assert (popmap.cache_key(other_client) == plain) == (kind in KEY_ONLY)
    if kind == "http":
        assert popmap.cache_key(JOE._replace(secure=True)) != plain
        assert popmap.cache_key(JOE._replace(attempt=2)) != plain
        other_port = JOE._replace(ends=ENDS._replace(source_port=4243))
        assert popmap.cache_key(other_port) == plain


def test_cache_holds_negative_answers(start: StartService) -> None:
    popmap = LocalMap()
    popmap.answer = None
    service = start(popmap, map_cache=60)
    assert service.ask() is None
    popmap.answer = NORTH
    assert service.ask() is None


def test_expired_answer_is_used_during_an_outage(start: StartService) -> None:
    """A known key gets its expired answer, and the map is not asked for each login."""
    popmap = LocalMap()
    service = start(popmap, map_cache=60)
    service.ask()
    service.pass_time(60)
    popmap.down = True
    assert [service.ask(), service.ask()] == [NORTH, NORTH]
    assert popmap.lookups == 2
    assert "popmap: down; using an expired answer" in "\n".join(service.sink.lines)
    assert isinstance(service.ask(Query("ann", ENDS)), MapUnavailable)
    popmap.down, popmap.answer = False, SOUTH
    service.pass_time(60)
    assert service.ask() == SOUTH


def test_cache_drops_the_oldest_entry_when_full(
    start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "CACHE_SIZE", 2)
    service = start(LocalMap(), map_cache=60)
    for key in ("a", "b", "a", "c", "d"):
        service.ask(Query(key, ENDS))
    assert list(service.service.cache) == [Query("c", ENDS), Query("d", ENDS)]


def test_reopen_empties_the_cache_and_reopens_the_map(start: StartService) -> None:
    popmap = LocalMap()
    service = start(popmap, map_cache=60)
    service.ask()
    service.service.reopen()
    popmap.answer = SOUTH
    assert service.ask() == SOUTH
    assert popmap.reopened == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", '""'),
        ("/etc/perdition/popmap.gdbm.db", '"/etc/perdition/popmap.gdbm.db"'),
        ("db:3306:mail:users:joe:secret", '"(not shown: may contain a password)"'),
        ("redis://:secret@host/0", '"(not shown: may contain a password)"'),
    ],
)
def test_logged_options_hide_a_password_of_the_map(value: str, shown: str) -> None:
    assert f"map_library_opt={shown}" in Options(map_library_opt=value).logged()
