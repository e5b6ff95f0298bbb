"""Which popmap perdition starts with, and which mistakes keep it from starting."""

from pathlib import Path

import pytest

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.failure import MapUnavailable, StartupError
from perdition.log import Log
from perdition.makedb.entries import entries
from perdition.makedb.files import Gdbm, make
from perdition.options.table import Options
from perdition.popmap import Destination, Query
from perdition.popmap.kinds import open_after_reload, open_at_start
from tests.unit.recorded_log import RecordedLog

JOE = Query("joe", ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143))


@pytest.fixture
def sink() -> RecordedLog:
    return RecordedLog()


@pytest.fixture
def log(sink: RecordedLog) -> Log:
    return Log("perdition", sink)


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the default popmap; nothing is there."""
    monkeypatch.setattr("perdition.popmap.backends.gdbm.SYSCONFDIR", str(tmp_path))
    return tmp_path / "popmap.gdbm.db"


def write(path: Path) -> None:
    make(path, Gdbm(), entries([b"joe:mx\n"], lambda _: None))


def test_site_without_map_options_and_without_a_file_has_no_popmap(
    default: Path, log: Log, sink: RecordedLog
) -> None:
    popmap = open_at_start(Options(), log)
    assert popmap.lookup(JOE) is None
    popmap.probe()
    [line] = sink.lines
    assert f"no popmap: {default} does not exist" in line


def test_default_popmap_is_used_from_when_it_is_created(default: Path, log: Log) -> None:
    popmap = open_at_start(Options(), log)
    assert popmap.lookup(JOE) is None
    write(default)
    assert popmap.lookup(JOE) == Destination(Endpoint("mx"))
    default.unlink()
    with pytest.raises(MapUnavailable, match="No such file"):
        popmap.lookup(JOE)
    popmap.close()


def test_default_popmap_that_was_there_must_not_disappear(
    default: Path, log: Log, sink: RecordedLog
) -> None:
    write(default)
    popmap = open_at_start(Options(), log)
    assert not sink.lines
    assert popmap.lookup(JOE)
    default.unlink()
    after_sighup = open_after_reload(Options(), popmap)
    with pytest.raises(MapUnavailable, match="No such file"):
        after_sighup.lookup(JOE)
    after_sighup.close()


@pytest.mark.parametrize(
    "options", [{"map_library": "gdbm"}, {"map_library_opt": "FOLDER/popmap.gdbm.db"}]
)
def test_popmap_that_an_option_names_must_exist(
    default: Path, log: Log, sink: RecordedLog, options: dict[str, str]
) -> None:
    values = {name: value.replace("FOLDER", str(default.parent)) for name, value in options.items()}
    popmap = open_at_start(Options(**values), log)
    with pytest.raises(MapUnavailable, match="No such file"):
        popmap.lookup(JOE)
    assert not sink.lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("^joe$: mx\n^(ann: mx\n", r"line 2: unmatched \("),
        ("\n'^joe$: mx\n", "line 2: unclosed quote"),
    ],
)
def test_regex_file_that_is_missing_or_invalid_prevents_the_start(
    tmp_path: Path, log: Log, content: str | None, message: str
) -> None:
    path = tmp_path / "popmap.re"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartupError, match=f"popmap {path}: {message}"):
        open_at_start(Options(map_library="posix_regex", map_library_opt=str(path)), log)


def test_missing_database_does_not_prevent_the_start(tmp_path: Path, log: Log) -> None:
    open_at_start(Options(map_library="cdb", map_library_opt=f"{tmp_path}/none"), log)
