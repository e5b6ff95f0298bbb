"""The popmap as sessions see it: lookups that wait, time limits, the cache."""

import io
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from perdition.endpoint import Endpoint
from perdition.failure import MapUnavailable
from perdition.log import Log, Priority
from perdition.net.loop import Loop
from perdition.options import Options
from perdition.popmap import Destination, Lengthy, PopMap, Query
from perdition.popmap import directory as directory_module
from perdition.popmap.directory import Directory
from perdition.username import Ends

ENDS = Ends("192.0.2.1", 4242, "192.0.2.9", 143)
JOE = Query("joe", ENDS)
NORTH = Destination(Endpoint("north"))
SOUTH = Destination(Endpoint("south"))


class LocalMap(PopMap):
    """Answers what it is told to, and counts."""

    blocks = False

    def __init__(self) -> None:
        self.answer: Destination | None = NORTH
        self.down = False
        self.asked = 0
        self.reopened = 0

    def lookup(self, query: Query) -> Destination | None:
        self.asked += 1
        if self.down:
            raise MapUnavailable("popmap: down")
        return self.answer

    def reopen(self) -> None:
        self.reopened += 1

    def close(self) -> None:
        pass


class LengthyMap(LocalMap):
    """Has to take its time for everybody, in a thread that waits for its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def lookup(self, query: Query) -> Destination | None:
        raise Lengthy

    def at_length(self, query: Query) -> Destination | None:
        assert threading.current_thread() is not threading.main_thread()
        self.gate.wait()
        return super().lookup(query)


class SlowMap(LocalMap):
    """Answers when its gate is open; but anybody's except joe's at once."""

    blocks = True

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def lookup(self, query: Query) -> Destination | None:
        if query.key == "joe":
            self.gate.wait(20)
        return super().lookup(query)


class Memory:
    """Keeps the log's lines."""

    descriptor = -1

    def __init__(self) -> None:
        self.lines = io.StringIO()

    def write(self, priority: Priority, line: str) -> None:
        self.lines.write(f"{line}\n")

    def reopen(self) -> None:
        pass


class Desk:
    """A directory on a loop that is run by hand."""

    def __init__(self, popmap: PopMap, **options: Any) -> None:
        self.loop = Loop()
        self.sink = Memory()
        self.directory = Directory(
            self.loop, popmap, Options(**options), Log("perdition", self.sink)
        )

    def run(self, *lookups: Coroutine[Any, Any, Destination | None]) -> list[Any]:
        """Run lookups at once; give what each returned or raised."""
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

        self.loop.call_later(0, begin)
        self.loop.run()
        return results

    def ask(self, query: Query = JOE) -> Any:
        """What one lookup returns or raises."""
        return self.run(self.directory.lookup(query))[0]

    def pass_time(self, seconds: float) -> None:
        """Have the loop's clock go on by itself."""
        self.directory.cache = {
            key: entry._replace(until=entry.until - seconds)
            for key, entry in self.directory.cache.items()
        }

    def close(self) -> None:
        self.loop.selector.close()
        os.close(self.loop.bell)


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(popmap: PopMap, **options: Any) -> Desk:
        desks.append(Desk(popmap, **options))
        return desks[-1]

    yield make
    for each in desks:
        each.close()


Desks = Callable[..., Desk]


def test_local_map_is_asked_in_line(desk: Desks) -> None:
    assert desk(LocalMap()).ask() == NORTH


def test_hung_lookup_ends_at_its_time_and_holds_up_nobody(desk: Desks) -> None:
    """joe's lookup hangs; ann's, begun behind it, is answered, and then joe is told."""
    slow = SlowMap()
    at = desk(slow, map_timeout=1)
    order: list[str] = []

    async def noted(name: str) -> Destination | None:
        try:
            return await at.directory.lookup(Query(name, ENDS))
        finally:
            order.append(name)

    joe, ann = at.run(noted("joe"), noted("ann"))
    slow.gate.set()
    assert ann == NORTH
    assert isinstance(joe, MapUnavailable)
    assert joe.detail == "popmap: no answer in 1 s"
    assert order == ["ann", "joe"]


def test_key_that_takes_a_local_map_long_holds_up_nobody(desk: Desks) -> None:
    """The loop goes on meanwhile: or nobody would open the gate."""
    lengthy = LengthyMap()
    at = desk(lengthy)

    async def open_gate() -> Destination | None:
        lengthy.gate.set()
        return None

    joe, _ = at.run(at.directory.lookup(JOE), open_gate())
    assert joe == NORTH


def test_full_pool_refuses_at_once(desk: Desks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "LOOKUP_THREADS", 1)
    monkeypatch.setattr(directory_module, "LOOKUP_WAITING", 1)
    slow = SlowMap()
    at = desk(slow, map_timeout=5)

    async def last() -> Destination | None:
        try:
            return await at.directory.lookup(Query("ann", ENDS))
        finally:
            slow.gate.set()  # nobody else is told anything before this

    *_, refused = at.run(at.directory.lookup(JOE), at.directory.lookup(JOE), last())
    assert isinstance(refused, MapUnavailable)
    assert refused.detail == "popmap: 2 calls are waiting already"
    assert at.ask() == NORTH


def test_without_a_cache_each_login_asks(desk: Desks) -> None:
    popmap = LocalMap()
    at = desk(popmap)
    at.ask(), at.ask()
    assert popmap.asked == 2


def test_cache_answers_for_its_time(desk: Desks) -> None:
    popmap = LocalMap()
    at = desk(popmap, map_cache=60)
    assert at.ask() == NORTH
    popmap.answer = SOUTH
    assert at.ask() == NORTH
    at.pass_time(60)
    assert at.ask() == SOUTH
    assert popmap.asked == 2


def test_cache_remembers_who_is_not_there(desk: Desks) -> None:
    popmap = LocalMap()
    popmap.answer = None
    at = desk(popmap, map_cache=60)
    assert at.ask() is None
    popmap.answer = NORTH
    assert at.ask() is None


def test_cache_bridges_an_outage(desk: Desks) -> None:
    """A known key has its older answer, and the map some peace; an unknown key has none."""
    popmap = LocalMap()
    at = desk(popmap, map_cache=60)
    at.ask()
    at.pass_time(60)
    popmap.down = True
    assert [at.ask(), at.ask()] == [NORTH, NORTH]
    assert popmap.asked == 2
    assert "popmap: down; an older answer is used" in at.sink.lines.getvalue()
    assert isinstance(at.ask(Query("ann", ENDS)), MapUnavailable)
    popmap.down, popmap.answer = False, SOUTH
    at.pass_time(60)
    assert at.ask() == SOUTH


def test_cache_is_bounded(desk: Desks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "REMEMBERED", 2)
    at = desk(LocalMap(), map_cache=60)
    for key in ("a", "b", "a", "c", "d"):
        at.ask(Query(key, ENDS))
    assert list(at.directory.cache) == ["c", "d"]


def test_reopen_empties_the_cache_and_reopens_the_map(desk: Desks) -> None:
    popmap = LocalMap()
    at = desk(popmap, map_cache=60)
    at.ask()
    at.directory.reopen()
    popmap.answer = SOUTH
    assert at.ask() == SOUTH
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
def test_log_has_no_password_of_the_map(value: str, shown: str) -> None:
    assert f"map_library_opt={shown}" in Options(map_library_opt=value).logged()
