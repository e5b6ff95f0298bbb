"""Popmaps in tables without a server of their own, and the options of all kinds of tables."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from perdition.endpoint import Endpoint
from perdition.failure import MapUnavailable, StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap.backends.sqlite import SQLiteMap
from perdition.popmap.kinds import open_map
from perdition.popmap.sql import Table
from tests.maps.test_servers import ANSWERS, ENDS, INJECTIONS, LINES
from tests.support.map_servers import makedb

DRIVERS = sorted(Path("/usr/lib").glob("**/libsqlite3odbc.so"))


def fill(file: Path, lines: str, kind: str = "sqlite") -> None:
    """Have a set-up tool's statements make the table."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("DROP TABLE IF EXISTS tblPerdition")
        statements = makedb(kind, lines)
        connection.executescript(statements if kind == "sqlite" else f"BEGIN;{statements}COMMIT;")


def sqlite_map(file: Path, monkeypatch: pytest.MonkeyPatch) -> PopMap:
    del monkeypatch
    return open_map(Options(map_library="sqlite", map_library_opt=str(file)))


def odbc_map(file: Path, monkeypatch: pytest.MonkeyPatch) -> PopMap:
    """A data source that leads to the SQLite file."""
    pytest.importorskip("pyodbc")
    if not DRIVERS:
        pytest.skip("not installed: libsqliteodbc")
    (file.parent / "odbc.ini").write_text(f"[popmap]\nDriver={DRIVERS[0]}\nDatabase={file}\n")
    monkeypatch.setenv("ODBCINI", str(file.parent / "odbc.ini"))
    return open_map(Options(map_library="odbc", map_library_opt="::popmap"))


KINDS = {"sqlite": sqlite_map, "odbc": odbc_map}
Opener = Callable[[Path, pytest.MonkeyPatch], PopMap]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def file(tmp_path: Path, kind: str) -> Path:
    file = tmp_path / "popmap"
    fill(file, LINES, kind)
    return file


@pytest.fixture
def popmap(kind: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> PopMap:
    return KINDS[kind](file, monkeypatch)


def test_users_are_found(popmap: PopMap) -> None:
    assert {key: popmap.lookup(Query(key, ENDS)) for key in ANSWERS} == ANSWERS
    assert popmap.blocks
    popmap.close()


def test_injections_find_nobody(popmap: PopMap) -> None:
    found = {key: popmap.lookup(Query(key, ENDS)) for key in INJECTIONS}
    assert found == dict.fromkeys(INJECTIONS)
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]
    popmap.close()


def test_ten_thousand_users_are_found(popmap: PopMap, file: Path, kind: str) -> None:
    fill(file, "".join(f"user{number}:host{number}\n" for number in range(10_000)), kind)
    for number in range(0, 10_000, 97):
        found = popmap.lookup(Query(f"user{number}", ENDS))
        assert found == Destination(Endpoint(f"host{number}"))
    popmap.close()


def test_table_may_have_no_port(popmap: PopMap, file: Path) -> None:
    """The port stands in the server's column, NULL and nothing are no server."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            "DROP TABLE tblPerdition;"
            "CREATE TABLE tblPerdition (user TEXT, servername TEXT);"
            "INSERT INTO tblPerdition VALUES ('joe', 'max@north:1143'), ('nil', NULL), ('e', '');"
        )
    expected = {
        "joe": Destination(Endpoint("north", "1143"), "max"),
        "nil": Destination(Endpoint("")),
        "e": Destination(Endpoint("")),
    }
    assert {key: popmap.lookup(Query(key, ENDS)) for key in expected} == expected
    popmap.close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)  # ODBC queries in another process
def test_error_that_passes_does_not_drop_the_port(
    popmap: PopMap, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a timeout or a deadlock in the first query, when the others succeed."""
    assert isinstance(popmap, SQLiteMap)
    first_row = popmap.first_row
    failures = iter([sqlite3.OperationalError("database is locked")])

    def fail_once(connection: Any, statement: str, *key: str) -> Sequence[Any] | None:
        for error in failures:
            raise error
        return first_row(connection, statement, *key)

    monkeypatch.setattr(popmap, "first_row", fail_once)
    with suppress(MapUnavailable):
        popmap.lookup(Query("joe", ENDS))
    assert {key: popmap.lookup(Query(key, ENDS)) for key in ANSWERS} == ANSWERS
    popmap.close()


def test_missing_table_is_unavailable(popmap: PopMap, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("DROP TABLE tblPerdition")
    with pytest.raises(MapUnavailable, match="no such table"):
        popmap.lookup(Query("joe", ENDS))
    popmap.close()


def test_replaced_sqlite_file_is_used(tmp_path: Path) -> None:
    file, new = tmp_path / "popmap", tmp_path / "new"
    fill(file, "joe:north\n")
    popmap = open_map(Options(map_library="sqlite", map_library_opt=str(file)))
    popmap.lookup(Query("joe", ENDS))
    fill(new, "joe:south\n")
    new.rename(file)
    assert popmap.lookup(Query("joe", ENDS)) == Destination(Endpoint("south"))
    file.unlink()
    with pytest.raises(MapUnavailable, match="unable to open database file"):
        popmap.lookup(Query("joe", ENDS))
    assert not file.exists()
    popmap.close()


def test_sqlite_option_names_table_and_columns(tmp_path: Path) -> None:
    popmap = open_map(
        Options(map_library="sqlite", map_library_opt=f"{tmp_path}/f:mail:host::number")
    )
    assert isinstance(popmap, SQLiteMap)
    assert popmap.servers == [f"{tmp_path}/f"]
    assert popmap.table == Table(table="mail", server_column="host", port_column="number")


def test_sqlite_file_is_relative_to_the_start_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon has left that directory when it opens the file."""
    monkeypatch.setattr("perdition.files.START_DIRECTORY", str(tmp_path))
    fill(tmp_path / "popmap", LINES)
    popmap = open_map(Options(map_library="sqlite", map_library_opt="popmap"))
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]
    popmap.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Table()),
        ("db", Table(hosts="db")),
        ("a,b:3307", Table(hosts="a,b", port="3307")),
        ("[::1],[::2]:3307:mail", Table(hosts="[::1],[::2]", port="3307", database="mail")),
        (":::t", Table(table="t")),
        (
            "h:1:d:t:u:p:s:c:o:tls",
            Table("h", "1", "d", "t", "u", "p", "s", "c", "o", "tls"),
        ),
    ],
)
def test_option_is_parsed(text: str, expected: Table) -> None:
    assert Table.parse(text) == expected


def test_option_may_name_several_hosts() -> None:
    assert Table.parse("[::1], b,/run/socket").servers == ["::1", "b", "/run/socket"]


def test_password_can_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3:cr@t\nsecond line\n")
    assert Table.parse(f":::::@{file}").password == "s3:cr@t"
    assert Table.parse(":::::@home").password == "@home"
    with pytest.raises(StartupError, match="none: No such file or directory; expected"):
        Table.parse(f":::::@{tmp_path}/none")


def test_invalid_port_is_refused() -> None:
    with pytest.raises(StartupError, match="expected a number up to 65535"):
        Table.parse("h:mysql:d")


def test_too_many_parts_are_refused_without_showing_them() -> None:
    with pytest.raises(StartupError) as error:
        Table.parse("h:1:d:t:u:secret:s:c:o:tls:more")
    assert "11 parts" in str(error.value)
    assert "secret" not in str(error.value)
