"""makegdbm: from lines to a gdbm file, and back."""

import dbm.gnu
import io
import os
import sys
from pathlib import Path

import pytest

from perdition.makedb.entries import entries
from perdition.makedb.files import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "popmap.gdbm.db"


class MakeGDBM:
    """Runs makegdbm with lines on its standard input; a call returns the exit status."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, lines: bytes, *arguments: str | Path) -> int:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        return main("makegdbm", [*map(str, arguments)])


@pytest.fixture
def makegdbm(monkeypatch: pytest.MonkeyPatch) -> MakeGDBM:
    return MakeGDBM(monkeypatch)


@pytest.mark.parametrize("option", ["-u", "--undo"])
def test_undo_returns_the_lines(
    makegdbm: MakeGDBM, path: Path, capfdbinary: pytest.CaptureFixture[bytes], option: str
) -> None:
    lines = [b"joe:mx\n", b"ann@x:[::1]:143\n", b" b : c \n", b"j\xf6e:m\xf6x\n"]
    assert makegdbm(b"".join(lines), path) == 0
    assert makegdbm(b"", option, path) == 0

    sys.stdout.flush()
    out, err = capfdbinary.readouterr()
    assert sorted(out.splitlines(keepends=True)) == sorted(lines)
    assert err == b""


@pytest.mark.parametrize(
    ("lines", "found", "complaints"),
    [
        ([b"joe:mx"], [(b"joe", b"mx")], []),
        ([b"joe:mx:143\n"], [(b"joe", b"mx:143")], []),
        ([b"\n", b"  \n", b"joe:mx\n"], [(b"joe", b"mx")], []),
        ([b" joe : mx \n"], [(b" joe ", b" mx ")], []),
        ([b"# joe:mx\n"], [(b"# joe", b"mx")], []),
        ([b"joe\n", b":mx\n", b"ann:\n"], [], ["line 1: ", "line 2: ", "line 3: "]),
        ([b"joe:a\n", b"\n", b"joe:b\n"], [(b"joe", b"a")], ["line 3: joe is a duplicate"]),
    ],
)
def test_lines_are_read_as_key_and_value(
    lines: list[bytes], found: list[tuple[bytes, bytes]], complaints: list[str]
) -> None:
    complained: list[str] = []
    assert list(entries(lines, complained.append)) == found
    assert len(complained) == len(complaints)
    for text, start in zip(complained, complaints, strict=True):
        assert text.startswith(start)


def test_bad_lines_are_reported_and_the_rest_is_written(
    makegdbm: MakeGDBM, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert makegdbm(b"joe\nann:mx\n", path) == 0
    assert capsys.readouterr().err.startswith("makegdbm: line 1: ")
    with dbm.gnu.open(str(path)) as database:
        assert database.keys() == [b"ann"]
        assert database[b"ann"] == b"mx"


def test_open_readers_keep_the_old_file(makegdbm: MakeGDBM, path: Path) -> None:
    assert makegdbm(b"joe:old", path) == 0
    with dbm.gnu.open(str(path), "ru") as old:
        assert makegdbm(b"joe:new", path) == 0
        assert old[b"joe"] == b"old"
    with dbm.gnu.open(str(path)) as new:
        assert new[b"joe"] == b"new"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
def test_mode_of_the_old_file_is_kept(makegdbm: MakeGDBM, path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    assert makegdbm(b"joe:mx", path) == 0
    assert path.stat().st_mode & 0o777 == mode


def test_new_file_can_be_read_by_all(makegdbm: MakeGDBM, path: Path) -> None:
    assert makegdbm(b"joe:mx", path) == 0
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("arguments", "status"), [(["/no/such/directory/map"], os.EX_IOERR), (["-u", "/no/map"], 255)]
)
def test_failure_names_the_file(
    makegdbm: MakeGDBM, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int
) -> None:
    assert makegdbm(b"joe:mx", *arguments) == status
    assert capsys.readouterr().err == f"makegdbm: {arguments[-1]}: No such file or directory\n"


def test_failure_leaves_no_temporary_file(makegdbm: MakeGDBM, path: Path) -> None:
    path.mkdir()
    assert makegdbm(b"joe:mx", path) == os.EX_IOERR
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("data", [b"", b"joe:mx\n", b"\0" * 9000])
def test_undo_of_another_kind_of_file_fails(
    makegdbm: MakeGDBM, path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    path.write_bytes(data)
    assert makegdbm(b"", "-u", path) == 255
    assert str(path) in capsys.readouterr().err


def test_undo_of_an_empty_map_reports_it_and_succeeds(
    makegdbm: MakeGDBM, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert makegdbm(b"", path) == 0
    assert makegdbm(b"", "-u", path) == 0
    assert capsys.readouterr() == ("", f"makegdbm: {path}: no entries\n")


@pytest.mark.parametrize(
    ("arguments", "status", "stream"),
    [
        (["-h"], 0, "out"),
        (["--help", "x"], 0, "out"),
        ([], 2, "err"),
        (["a", "b"], 2, "err"),
        (["-x", "a"], 2, "err"),
        (["--und", "a"], 2, "err"),
    ],
)
def test_usage_is_shown_on_request_and_for_wrong_arguments(
    makegdbm: MakeGDBM,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    stream: str,
) -> None:
    with pytest.raises(SystemExit) as end:
        makegdbm(b"", *arguments)
    assert end.value.code == status
    assert getattr(capsys.readouterr(), stream).startswith(
        "usage: makegdbm [-h] [-u] [--version] FILE"
    )
