"""What every map on a server must do: answer, survive its server's restart, and never hang."""

import threading
import time
from collections.abc import Iterator

import pytest

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.failure import MapUnavailable
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap.kinds import open_map
from tests.support import processes
from tests.support.folders import public_folder
from tests.support.map_server import MapServer
from tests.support.map_servers import AuthService, MariaDB, OpenLDAP, PostgreSQL, Redis

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)
SERVERS: list[type[MapServer]] = [MariaDB, PostgreSQL, OpenLDAP, Redis, AuthService]

LINES = """\
joe:north
ann:south:1143
max:maximilian@north
six:[2001:db8::1]:143
müller:north
o'neill:north
back\\slash:north
100%:north
a*b:north
(paren):north
"""

ANSWERS = {
    "joe": Destination(Endpoint("north")),
    "ann": Destination(Endpoint("south", "1143")),
    "max": Destination(Endpoint("north"), "maximilian"),
    "six": Destination(Endpoint("2001:db8::1", "143")),
    **dict.fromkeys(
        ("müller", "o'neill", "back\\slash", "100%", "a*b", "(paren)"),
        Destination(Endpoint("north")),
    ),
    "nobody": None,
    "JOE": None,
    "": None,
}

INJECTIONS = [
    "' OR '1'='1",
    "' OR 1=1 -- ",
    '" OR ""="',
    "\\' OR 1=1 -- ",
    "joe'; DROP TABLE tblPerdition; --",
    "%",
    "j_e",
    "*",
    "j*",
    "*)(uid=*",
    "joe)(|(uid=*)",
    "\\2a",
    "joe,ou=mailbox",
    "joe\r\nAuth-User: ann",
    "joe\r\nGET ann\r\n",
    "joe\nann",
    "joe\0",
    "joe\0ann",
    "joe ",
    " joe",
    "\udcff\udcfe",
    "joe\udc80",
    "x" * 4000,
    "%s",
    "{joe}",
    "$1",
]


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: server.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[MapServer]:
    """A server with the users."""
    kind: type[MapServer] = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    with public_folder() as folder, kind(folder) as running:
        running.load(LINES)
        yield running


@pytest.fixture
def popmap(server: MapServer) -> Iterator[PopMap]:
    popmap = opened(server)
    yield popmap
    popmap.close()


def opened(server: MapServer, option: str | None = None, seconds: int = 10) -> PopMap:
    return open_map(
        Options(
            map_library=server.kind,
            map_library_opt=server.option() if option is None else option,
            map_timeout=seconds,
        )
    )


def test_users_are_found(server: MapServer, popmap: PopMap) -> None:
    expected = {**ANSWERS, **dict.fromkeys(server.loose, ANSWERS["joe"])}
    assert {key: popmap.lookup(Query(key, ENDS)) for key in expected} == expected
    assert popmap.blocks


@pytest.mark.parametrize("key", INJECTIONS)
def test_injections_find_nobody(server: MapServer, popmap: PopMap, key: str) -> None:
    expected = ANSWERS["joe"] if key in server.loose else None
    assert popmap.lookup(Query(key, ENDS)) == expected
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]


def test_lookups_may_run_at_once(popmap: PopMap) -> None:
    """Eight threads share the map, and each gets its own answers."""
    wrong: list[object] = []

    def many(key: str) -> None:
        for _ in range(50):
            found = popmap.lookup(Query(key, ENDS))
            if found != ANSWERS[key]:
                wrong.append((key, found))

    threads = [threading.Thread(target=many, args=(key,)) for key in list(ANSWERS)[:8]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_lookups_succeed_after_a_restart_of_the_server(server: MapServer, popmap: PopMap) -> None:
    """A kept connection that has died is replaced within the lookup, without a failure."""
    popmap.lookup(Query("joe", ENDS))
    server.restart()
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]


def test_stopped_server_is_unavailable(server: MapServer, popmap: PopMap) -> None:
    popmap.lookup(Query("joe", ENDS))
    server.stop()
    for _ in range(2):
        with pytest.raises(MapUnavailable) as failure:
            popmap.lookup(Query("joe", ENDS))
        assert "s3:cret" not in failure.value.detail
    server.start()
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]


@pytest.mark.parametrize("connected", [True, False])
def test_hung_server_fails_lookups_at_the_time_limit(server: MapServer, connected: bool) -> None:
    popmap = opened(server, seconds=4)
    if connected:
        popmap.lookup(Query("joe", ENDS))
    with server.hung():
        began = time.monotonic()
        with pytest.raises(MapUnavailable):
            popmap.lookup(Query("joe", ENDS))
        assert time.monotonic() - began < 6
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]
    popmap.close()


def test_next_server_is_asked(server: MapServer) -> None:
    [nobody] = processes.free_ports(1)
    popmap = opened(server, server.option_of_two(nobody))
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]
    popmap.close()


def test_reopened_map_answers(popmap: PopMap) -> None:
    popmap.lookup(Query("joe", ENDS))
    popmap.reopen()
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]


def test_ten_thousand_users_are_found(server: MapServer) -> None:
    server.load("".join(f"user{number}:host{number}:143\n" for number in range(10_000)))
    popmap = opened(server)
    for number in range(0, 10_000, 97):
        found = popmap.lookup(Query(f"user{number}", ENDS))
        assert found == Destination(Endpoint(f"host{number}", "143"))
    assert popmap.lookup(Query("joe", ENDS)) is None
    popmap.close()
    server.load(LINES)
