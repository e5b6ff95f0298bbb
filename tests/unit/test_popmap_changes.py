"""Popmap files that change while perdition runs: which content is in force, in every kind."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.failure import MapUnavailable, StartupError
from perdition.makedb.entries import entries
from perdition.makedb.files import Format, Gdbm, make
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap import file_map as files_module
from perdition.popmap.kinds import open_after_reload, open_map
from tests.unit.test_popmap_files import WRITERS

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)


class Clock:
    """A monotonic clock that the test moves on, and the system's clock."""

    def __init__(self) -> None:
        self.moved = 0.0
        self.set_forward = 0.0

    def monotonic(self) -> float:
        return self.moved

    def time(self) -> float:
        return time.time() + self.set_forward


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(files_module, "time", clock)
    return clock


def write_regex(file: Path, lines: str) -> None:
    """Write rules for ``key:value`` lines."""
    pairs = [line.partition(":") for line in lines.splitlines()]
    file.write_text("".join(f"^{key}$: {value}\n" for key, _, value in pairs))


def write_in_process(file_format: Format) -> Callable[[Path, str], None]:
    """Write as makegdbm and makebdb do, but without a process."""

    def write(file: Path, lines: str) -> None:
        make(file, file_format, entries(lines.encode().splitlines(), lambda _: None))

    return write


KINDS = {**WRITERS, "gdbm": write_in_process(Gdbm()), "posix_regex": write_regex}


class MapFile:
    """A file of one kind, the map that reads it, and what the map has logged."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.popmap = open_map(self.options())
        self.logged: list[str] = []
        self.popmap.log_warning = self.logged.append

    def options(self) -> Options:
        library = self.kind.partition(" ")[0]
        return Options(map_library=library, map_library_opt=str(self.path))

    def reloaded(self) -> PopMap:
        """The map that sessions use after SIGHUP."""
        return open_after_reload(self.options(), self.popmap)

    def content(self, lines: str) -> bytes:
        """The bytes of a file with these entries."""
        new = self.path.with_name("new")
        KINDS[self.kind](new, lines)
        data = new.read_bytes()
        new.unlink()
        return data

    def write(self, data: bytes, how: str) -> None:
        """Write the file in place, or put another one in its place."""
        if how == "in place":
            self.path.write_bytes(data)
        else:
            new = self.path.with_name("new")
            new.write_bytes(data)
            new.replace(self.path)

    def host(self, key: str = "joe") -> str | None:
        """Where the map sends a user."""
        found = self.popmap.lookup(Query(key, ENDS))
        return found.server.host if found else None


@pytest.fixture(params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MapFile]:
    kind: str = request.param
    if kind.startswith("bdb"):
        pytest.importorskip("perdition.popmap.backends.bdb")
    found = MapFile(kind, tmp_path / "popmap")
    found.write(found.content("joe:old\n"), "in place")
    yield found
    found.popmap.close()


ways = pytest.mark.parametrize("how", ["in place", "renamed"])


@ways
def test_changed_file_is_used_after_a_second_without_changes(
    file: MapFile, clock: Clock, how: str
) -> None:
    assert file.host() == "old"
    for host in ("one", "two"):
        file.write(file.content(f"joe:{host}\nann:{host}\n"), how)
        assert (file.host(), file.host("ann")) == ("old", None)
        clock.moved += 0.9
        assert file.host() == "old"
    clock.moved += 0.2
    assert (file.host(), file.host("ann")) == ("two", "two")
    assert not file.logged


def test_file_that_was_changed_some_time_ago_is_used_at_once(file: MapFile, clock: Clock) -> None:
    assert file.host() == "old"
    file.write(file.content("joe:new\n"), "renamed")
    clock.set_forward = 2.0
    assert file.host() == "new"


def test_times_in_the_future_do_not_keep_a_file_out_of_use(file: MapFile, clock: Clock) -> None:
    assert file.host() == "old"
    file.write(file.content("joe:new\n"), "renamed")
    os.utime(file.path, (2**32, 2**32))
    assert file.host() == "old"
    clock.moved += 1.0
    assert file.host() == "new"


def useless(file: MapFile) -> dict[str, bytes]:
    """Contents that must not be used."""
    many = file.content("".join(f"joe{number}:new\n" for number in range(2000)))
    half = b"^ann$: new\n'^half" if file.kind == "posix_regex" else many[: len(many) // 2]
    return {
        "empty": b"",
        "no entries": file.content(""),
        "half": half,
        "invalid": b"^(joe: and no database\n" * 100,
    }


@ways
@pytest.mark.parametrize("what", ["empty", "no entries", "half", "invalid"])
def test_previous_content_stays_in_force_while_the_new_one_is_useless(
    file: MapFile, clock: Clock, how: str, what: str
) -> None:
    assert file.host() == "old"
    file.write(useless(file)[what], how)
    for _ in range(3):
        assert (file.host(), file.host("ann")) == ("old", None)
        clock.moved += 2.0
    [line] = file.logged
    assert line.startswith(f"popmap {file.path}: ")
    assert line.endswith("; keeping the previous content")

    file.write(file.content("joe:new\n"), how)
    file.host()
    clock.moved += 1.0
    assert file.host() == "new"
    assert len(file.logged) == 1


@pytest.mark.parametrize("what", ["half", "invalid"])
def test_first_content_that_is_useless_makes_the_map_unavailable(file: MapFile, what: str) -> None:
    file.write(useless(file)[what], "in place")
    with pytest.raises(MapUnavailable, match=f"popmap {file.path}: "):
        file.host()


def test_missing_file_is_unavailable_and_may_come_back(file: MapFile, clock: Clock) -> None:
    assert file.host() == "old"
    data = file.path.read_bytes()
    file.path.unlink()
    with pytest.raises(MapUnavailable, match="No such file"):
        file.host()
    file.path.write_bytes(data[:1])
    assert file.host() == "old"
    clock.moved += 1.0
    assert file.host() == "old"


def test_sighup_keeps_the_content_in_force(file: MapFile, clock: Clock) -> None:
    """Also for sessions that began before SIGHUP, which keep the map that was there then."""
    assert file.host() == "old"
    file.write(b"", "in place")
    for popmap in (file.reloaded(), file.popmap):
        assert popmap.lookup(Query("joe", ENDS)) == Destination(Endpoint("old"))
        clock.moved += 2.0


def test_change_that_keeps_size_and_modification_time_is_noticed(
    file: MapFile, clock: Clock
) -> None:
    """gdbm writes through a memory map, which on tmpfs leaves the modification time alone."""
    times = (1_700_000_000, 1_700_000_000)
    os.utime(file.path, times)
    assert file.host() == "old"
    changed = file.path.stat().st_ctime_ns
    while file.path.stat().st_ctime_ns == changed:
        file.write(file.content("joe:new\n"), "in place")
        os.utime(file.path, times)
    file.host()
    clock.moved += 1.0
    assert file.host() == "new"


def test_lookup_in_an_unchanged_file_costs_one_stat(
    file: MapFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.host()
    calls: list[str] = []
    stat = os.stat

    def counted(path: str) -> os.stat_result:
        calls.append(path)
        return stat(path)

    monkeypatch.setattr(os, "stat", counted)
    file.host()
    assert len(calls) == 1


@pytest.fixture
def large(file: MapFile, monkeypatch: pytest.MonkeyPatch) -> MapFile:
    """A file of a database that is too large for a copy in memory."""
    monkeypatch.setattr(files_module, "COPY_LIMIT", 10)
    return file


databases = pytest.mark.parametrize("file", sorted(KINDS.keys() - {"posix_regex"}), indirect=True)


@databases
def test_large_database_that_is_rewritten_in_place_is_unavailable(
    large: MapFile, clock: Clock
) -> None:
    assert large.host() == "old"
    large.write(large.content("joe:new\n"), "in place")
    with pytest.raises(MapUnavailable, match="being rewritten"):
        large.host()
    clock.moved += 1.0
    assert large.host() == "new"


def test_database_is_used_where_it_is_if_copies_cannot_be_opened(
    file: MapFile, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a chroot without /proc."""
    monkeypatch.setattr(files_module, "memory_path", lambda _: "/nonexistent")
    assert file.host() == "old"
    file.write(file.content("joe:new\n"), "renamed")
    assert file.host() == "old"
    clock.moved += 1.0
    assert file.host() == "new"


@databases
def test_large_database_that_is_replaced_stays_in_force(large: MapFile, clock: Clock) -> None:
    assert large.host() == "old"
    large.write(b"", "renamed")
    for _ in range(2):
        assert large.host() == "old"
        clock.moved += 1.0


def test_empty_text_file_is_believed_only_if_it_is_not_new(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "popmap.re"
    path.touch()
    popmap = open_map(Options(map_library="posix_regex", map_library_opt=str(path)))
    with pytest.raises(MapUnavailable, match="empty"):
        popmap.lookup(Query("joe", ENDS))
    clock.set_forward = 2.0
    assert popmap.lookup(Query("joe", ENDS)) is None


@pytest.fixture
def regex(tmp_path: Path) -> MapFile:
    return MapFile("posix_regex", tmp_path / "popmap.re")


@ways
@pytest.mark.parametrize("half", ["^aa$ host1\n^jo", "^aa$ host1\n^joe$ 10.0.0.1"])
def test_text_file_that_is_cut_within_a_line_is_not_used(
    regex: MapFile, clock: Clock, how: str, half: str
) -> None:
    regex.write(b"^aa$ old\n^joe$ 10.0.0.12\n", "in place")
    assert regex.host() == "10.0.0.12"
    regex.write(half.encode(), how)
    for _ in range(3):
        assert (regex.host(), regex.host("aa")) == ("10.0.0.12", "old")
        clock.moved += 2.0
    [line] = regex.logged
    assert "does not end with a line end" in line
    regex.write(b"^joe$ new\n", how)
    regex.host()
    clock.moved += 1.0
    assert regex.host() == "new"


def test_worker_does_not_use_a_file_that_was_cut_after_the_master_checked_it(
    regex: MapFile,
) -> None:
    regex.write(b"^joe$ 10.0.0.12\n", "in place")
    regex.popmap.probe()
    regex.write(b"^joe$ 10.0.0.1", "in place")
    with pytest.raises(MapUnavailable, match="does not end with a line end"):
        regex.host()


def test_sighup_does_not_accept_a_file_that_is_cut_within_a_line(regex: MapFile) -> None:
    """Neither in the master, which opens a new map then, nor in later workers."""
    regex.write(b"^joe$ 10.0.0.12\n", "in place")
    regex.popmap.probe()
    regex.write(b"^joe$ 10.0.0.1", "in place")
    popmap = open_map(regex.options())
    with pytest.raises(StartupError, match="does not end with a line end"):
        popmap.probe()
    with pytest.raises(MapUnavailable, match="does not end with a line end"):
        popmap.lookup(Query("joe", ENDS))


def test_text_file_that_never_had_a_final_line_end_is_used_and_may_change(
    regex: MapFile, clock: Clock
) -> None:
    regex.write(b"^joe$ one", "in place")
    regex.popmap.probe()
    assert regex.host() == "one"
    for content in (b"^joe$ two", b"^joe$ three\n"):
        regex.write(content, "renamed")
        regex.host()
        clock.moved += 1.0
        assert regex.host() == content.split()[1].decode()
    assert not regex.logged


def fill(path: Path, *statements: str) -> None:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


TABLE = "CREATE TABLE tblPerdition (user TEXT, servername TEXT)"
JOE = "INSERT INTO tblPerdition VALUES ('joe', 'HOST')"


@pytest.mark.parametrize(
    "statements", [[], [TABLE], ["CREATE TABLE other (x)"]], ids=["empty", "no rows", "no table"]
)
def test_sqlite_file_stays_in_use_until_the_next_one_has_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statements: list[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr("perdition.popmap.backends.sqlite.time", clock)
    path = tmp_path / "popmap"
    fill(path, TABLE, JOE.replace("HOST", "old"))
    file = MapFile("sqlite", path)
    assert file.host() == "old"
    fill(path, *statements)
    for _ in range(3):
        assert file.host() == "old"
        clock.moved += 1.0
    [line] = file.logged
    assert line.endswith("; keeping the previous file in use")
    assert file.reloaded() is file.popmap
    fill(path, TABLE, JOE.replace("HOST", "new"))
    assert file.host() == "new"
    file.popmap.close()
