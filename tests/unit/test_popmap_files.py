"""Popmaps in database files, each written by its own tool."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.failure import MapUnavailable
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap.kinds import open_map

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)
LINES = "joe:north\nann:south:1143\nmax:maximilian@north\nnul:n\n"

ANSWERS = {
    "joe": Destination(Endpoint("north")),
    "ann": Destination(Endpoint("south", "1143")),
    "max": Destination(Endpoint("north"), "maximilian"),
    "nobody": None,
    "": None,
    "jo": None,
    "joe\0": None,
    "j\udcffe": None,
    "x" * 5000: None,
}

Write = Callable[[Path, str], None]


def makedb(name: str, file: Path, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a makedb tool."""
    command = [sys.executable, "-m", "perdition", name, *arguments, str(file)]
    return subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=20, check=False
    )


def write_gdbm(file: Path, lines: str) -> None:
    assert makedb("makegdbm", file, lines).returncode == os.EX_OK


def write_bdb(file: Path, lines: str) -> None:
    assert makedb("makebdb", file, lines).returncode == os.EX_OK


def write_bdb_btree(file: Path, lines: str) -> None:
    """Write a B-tree, the other format of Berkeley DB."""
    db = pytest.importorskip("perdition.popmap.backends.bdb").db
    file.unlink(missing_ok=True)
    database = db.DB()
    database.open(str(file), dbtype=db.DB_BTREE, flags=db.DB_CREATE)
    for line in lines.splitlines():
        key, _, value = line.partition(":")
        database.put(key.encode(), value.encode())
    database.close()


def write_cdb(file: Path, lines: str) -> None:
    if not shutil.which("cdb"):
        pytest.skip("tinycdb is not installed")
    pairs = "".join(line.replace(":", " ", 1) + "\n" for line in lines.splitlines())
    subprocess.run(["cdb", "-c", "-m", file], input=pairs, text=True, check=True, timeout=20)


WRITERS = {
    "gdbm": write_gdbm,
    "bdb": write_bdb,
    "bdb btree": write_bdb_btree,
    "cdb": write_cdb,
}


@pytest.fixture(params=WRITERS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name.startswith("bdb"):
        pytest.importorskip("perdition.popmap.backends.bdb")
    return name


def opened(kind: str, file: Path) -> PopMap:
    return open_map(Options(map_library=kind.split(maxsplit=1)[0], map_library_opt=str(file)))


def test_map_answers_for_exact_keys(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "popmap"
    WRITERS[kind](file, LINES)
    popmap = opened(kind, file)
    assert {key: popmap.lookup(Query(key, ENDS)) for key in ANSWERS} == ANSWERS
    assert not popmap.blocks
    popmap.close()


def test_ten_thousand_users_are_found(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "popmap"
    WRITERS[kind](file, "".join(f"user{number}:host{number}\n" for number in range(10_000)))
    popmap = opened(kind, file)
    for number in range(0, 10_000, 7):
        found = popmap.lookup(Query(f"user{number}", ENDS))
        assert found == Destination(Endpoint(f"host{number}"))
    assert popmap.lookup(Query("user10000", ENDS)) is None
    popmap.close()


def test_new_file_is_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdition.popmap.file_map.SETTLE_SECONDS", 0)
    file = tmp_path / "popmap"
    WRITERS[kind](file, LINES)
    popmap = opened(kind, file)
    popmap.lookup(Query("joe", ENDS))
    WRITERS[kind](file, "joe:elsewhere\n")
    assert popmap.lookup(Query("joe", ENDS)) == Destination(Endpoint("elsewhere"))
    assert popmap.lookup(Query("ann", ENDS)) is None
    popmap.close()


def test_missing_or_damaged_file_is_unavailable_until_it_is_replaced(
    kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "popmap"
    popmap = opened(kind, file)
    with pytest.raises(MapUnavailable, match="No such file"):
        popmap.lookup(Query("joe", ENDS))
    file.write_bytes(b"\xff" * 9000)
    for _ in range(2):
        with pytest.raises(MapUnavailable, match="damaged"):
            popmap.lookup(Query("joe", ENDS))
    file.unlink()
    WRITERS[kind](file, LINES)
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]
    popmap.close()


def test_cdb_that_ends_too_early_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "popmap"
    write_cdb(file, LINES)
    file.write_bytes(file.read_bytes()[:2060])
    with pytest.raises(MapUnavailable, match="a hash table is outside of the file"):
        opened("cdb", file).lookup(Query("joe", ENDS))


TOOLS = ("makegdbm", "makebdb")


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "makebdb":
        pytest.importorskip("perdition.popmap.backends.bdb")
    return name


def test_undo_returns_the_lines(tool: str, tmp_path: Path) -> None:
    file = tmp_path / "popmap"
    makedb(tool, file, "a:1\nkey with space:b:c\n\nlast:no newline")
    undone = makedb(tool, file, "", "--undo")
    assert sorted(undone.stdout.splitlines()) == ["a:1", "key with space:b:c", "last:no newline"]


def test_bad_lines_are_reported_and_skipped(tool: str, tmp_path: Path) -> None:
    file = tmp_path / "popmap"
    made = makedb(tool, file, "nocolon\na:1\n:novalue\nb:\na:2\nc:3\n")
    assert made.returncode == os.EX_OK
    assert made.stderr.splitlines() == [
        f"{tool}: line 1: expected key:value, skipped",
        f"{tool}: line 3: expected key:value, skipped",
        f"{tool}: line 4: expected key:value, skipped",
        f"{tool}: line 5: a is a duplicate, skipped",
    ]
    assert sorted(makedb(tool, file, "", "-u").stdout.splitlines()) == ["a:1", "c:3"]


def test_rewritten_file_keeps_its_mode_and_loses_its_entries(tool: str, tmp_path: Path) -> None:
    file = tmp_path / "popmap"
    makedb(tool, file, "a:1\n")
    assert file.stat().st_mode & 0o777 == 0o644
    file.chmod(0o600)
    makedb(tool, file, "b:2\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert makedb(tool, file, "", "-u").stdout == "b:2\n"


def test_failure_leaves_no_file(tool: str, tmp_path: Path) -> None:
    file = tmp_path / "missing" / "popmap"
    made = makedb(tool, file, "a:1\n")
    assert (made.returncode, made.stderr) == (
        os.EX_IOERR,
        f"{tool}: {file}: No such file or directory\n",
    )
    assert makedb(tool, tmp_path / "none", "", "-u").returncode == 255
    assert not list(tmp_path.iterdir())
