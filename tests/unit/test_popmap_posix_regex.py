"""Popmaps of regular expressions."""

import time
from pathlib import Path

import pytest

from perdition.endpoint import Endpoint
from perdition.failure import MapUnavailable
from perdition.options import Options
from perdition.popmap import Destination, Query
from perdition.popmap.posix_regex import PosixRegexMap, open_map
from perdition.username import Ends

ENDS = Ends("192.0.2.1", 4242, "192.0.2.9", 143)


def popmap(folder: Path, text: str) -> PosixRegexMap:
    file = folder / "popmap.re"
    file.write_text(text)
    return open_map(Options(map_library="posix_regex", map_library_opt=str(file)))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("joe", Destination(Endpoint("north", "110"))),
        ("ann", Destination(Endpoint("south"), "anna")),
        ("x-17", Destination(Endpoint("host17"))),
        ("nobody", None),
        ("nothing", Destination(Endpoint(""))),
    ],
)
def test_answers(tmp_path: Path, key: str, expected: Destination | None) -> None:
    text = "^joe$: north:110\n^ann$ anna@south\n^x-([0-9]+)$ host$1\nnothing ''\n"
    assert popmap(tmp_path, text).lookup(Query(key, ENDS)) == expected


def test_pathological_expressions_stall_nobody(tmp_path: Path) -> None:
    """Twenty expressions that would each take for ever share one short time."""
    evil = popmap(tmp_path, "(a|aa)+$: nowhere\n" * 20)
    began = time.thread_time()
    with pytest.raises(MapUnavailable, match=r"matching took more than 0\.1 s"):
        evil.lookup(Query("a" * 40 + "b", ENDS))
    assert time.thread_time() - began < 1


def test_changed_file_is_compiled_once(tmp_path: Path) -> None:
    changing = popmap(tmp_path, "joe north")
    assert changing.lookup(Query("joe", ENDS)) == Destination(Endpoint("north"))
    rules = changing.rules
    changing.lookup(Query("joe", ENDS))
    assert changing.rules is rules
    Path(changing.path).write_text("joe southern")
    assert changing.lookup(Query("joe", ENDS)) == Destination(Endpoint("southern"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("joe north\n(ann south\n", "line 2: "),
        ("joe\n", "line 1: no substitution"),
        ("joe 'north\n", "line 1: a quote is not closed"),
    ],
)
def test_bad_file_is_unavailable(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(MapUnavailable, match=complaint):
        popmap(tmp_path, text).lookup(Query("joe", ENDS))
