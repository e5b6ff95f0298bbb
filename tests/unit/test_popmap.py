"""Popmaps: values, libraries, and the gdbm and regex files."""

import dbm.gnu
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.failure import MapUnavailable, StartupError
from perdition.makedb.entries import entries
from perdition.makedb.files import Gdbm, make
from perdition.options.table import Options
from perdition.popmap import Destination, NoMap, PopMap, Query, SlowLookup, kinds
from perdition.popmap.backends.posix_regex import PosixRegexMap
from tests.unit import damage

CHECKOUT = Path(__file__).parents[2]
ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)
GDBM, REGEX = "/usr/lib/libperditiondb_gdbm.so.0", "posix_regex"


def complain(text: str) -> None:
    """Fail: no line is malformed here."""
    raise AssertionError(text)


def write_gdbm(path: Path, text: str) -> None:
    """Build a map as makegdbm does."""
    make(path, Gdbm(), entries(text.encode().splitlines(), complain))


def open_map(library: str, option: str, delimiter: str) -> PopMap:
    """The popmap of these options."""
    return kinds.open_map(
        Options(map_library=library, map_library_opt=option, domain_delimiter=delimiter)
    )


def lookup(popmap: PopMap, key: str) -> Destination | None:
    """The popmap's answer for a key."""
    return popmap.lookup(Query(key, ENDS))


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use changed files at once."""
    monkeypatch.setattr("perdition.popmap.file_map.SETTLE_SECONDS", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "popmap"


@pytest.mark.parametrize(
    ("value", "delimiter", "destination"),
    [
        ("mx", "@", Destination(Endpoint("mx"))),
        ("mx:143", "@", Destination(Endpoint("mx", "143"))),
        ("[::1]:143", "@", Destination(Endpoint("::1", "143"))),
        ("joe@mx:143", "@", Destination(Endpoint("mx", "143"), "joe")),
        ("joe@home@mx", "@", Destination(Endpoint("mx"), "joe@home")),
        ("joe@home##mx", "##", Destination(Endpoint("mx"), "joe@home")),
        (" mx ", "@", Destination(Endpoint("mx"))),
        ("", "@", Destination(Endpoint(""))),
    ],
)
def test_value_is_divided_into_user_host_and_port(
    value: str, delimiter: str, destination: Destination
) -> None:
    assert Destination.parse(value, delimiter) == destination


@pytest.mark.parametrize(
    "library",
    [
        "gdbm",
        "/usr/lib/libperditiondb_gdbm.so.0",
        "/usr/lib/x86_64-linux-gnu/libperditiondb_gdbm.so.0.0.0",
        "libperditiondb_gdbm.so",
    ],
)
def test_map_is_chosen_by_the_library_name(library: str, path: Path) -> None:
    write_gdbm(path, "joe:mx")
    assert lookup(open_map(library, str(path), "@"), "joe")


def test_map_without_a_library_finds_nobody() -> None:
    assert isinstance(open_map("", "", "@"), NoMap)
    assert lookup(open_map("", "", "@"), "joe") is None


@pytest.mark.parametrize("library", ["nosuch", "os"])
def test_unknown_library_is_reported(library: str) -> None:
    with pytest.raises(StartupError, match=f"map_library {library}: .* expected one of gdbm"):
        open_map(library, "", "@")


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [
        ("ldap", "ldap", "python3-ldap"),
        ("mysql", "pymysql", "python3-pymysql"),
        ("odbc", "pyodbc", "python3-pyodbc"),
        ("postgresql", "psycopg", "python3-psycopg"),
        ("redis", "redis", "python3-redis"),
    ],
)
def test_missing_library_is_reported_with_its_package(
    monkeypatch: pytest.MonkeyPatch, kind: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"perdition.popmap.backends.{kind}", raising=False)
    with pytest.raises(StartupError) as error:
        open_map(kind, "", "@")
    assert str(error.value).startswith(f"map_library {kind}: no module {module}; install ")
    assert package in str(error.value)
    assert f"perdition[{kind}] by pip" in str(error.value)


class TestEveryFile:
    """What both kinds of file have in common; each maps joe to one host."""

    @pytest.fixture(params=[GDBM, REGEX])
    def library(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def popmap(self, library: str, path: Path) -> PopMap:
        return open_map(library, str(path), "@")

    def write(self, library: str, path: Path, host: str) -> None:
        if library == GDBM:
            write_gdbm(path, f"joe:{host}")
        else:
            path.write_text(f"^joe$: {host}")

    @pytest.mark.usefixtures("no_delay")
    def test_rebuilt_file_is_read_again(self, library: str, popmap: PopMap, path: Path) -> None:
        for host in ("one", "two", "three"):
            self.write(library, path, host)
            assert lookup(popmap, "joe") == Destination(Endpoint(host))
        assert lookup(popmap, "ann") is None

    def test_missing_file_is_unavailable_until_it_exists(
        self, library: str, popmap: PopMap, path: Path
    ) -> None:
        with pytest.raises(MapUnavailable, match=f"{path}: No such file"):
            lookup(popmap, "joe")
        self.write(library, path, "mx")
        assert lookup(popmap, "joe")
        path.unlink()
        with pytest.raises(MapUnavailable):
            lookup(popmap, "joe")

    def test_map_answers_after_reopen_and_may_be_closed_twice(
        self, library: str, popmap: PopMap, path: Path
    ) -> None:
        self.write(library, path, "mx")
        assert lookup(popmap, "joe")
        popmap.reopen()
        assert lookup(popmap, "joe")
        popmap.close()
        popmap.close()

    def test_directory_is_unavailable(self, popmap: PopMap, path: Path) -> None:
        path.mkdir()
        with pytest.raises(MapUnavailable, match=str(path)):
            lookup(popmap, "joe")


class TestGdbm:
    @pytest.mark.parametrize("key", ["joe", "joe@example.com", "j öe", "j\udcffe", "x" * 5000])
    def test_only_the_exact_key_is_found(self, path: Path, key: str) -> None:
        with path.open("wb"):
            lines = [key.encode(errors="surrogateescape") + b":mx\n"]
            make(path, Gdbm(), entries(lines, complain))
        popmap = open_map(GDBM, str(path), "@")
        assert lookup(popmap, key) == Destination(Endpoint("mx"))
        assert lookup(popmap, key + " ") is None
        assert lookup(popmap, "") is None

    @pytest.mark.usefixtures("no_delay")
    def test_file_rebuilt_with_the_same_timestamp_is_read_again(self, path: Path) -> None:
        popmap = open_map(GDBM, str(path), "@")
        for host in ("one", "two"):
            write_gdbm(path, f"joe:{host}")
            os.utime(path, (0, 0))
            assert lookup(popmap, "joe") == Destination(Endpoint(host))

    @pytest.mark.usefixtures("no_delay")
    def test_open_map_does_not_lock_writers_out(self, path: Path) -> None:
        """The makegdbm of perdition 2.2 writes to the open file."""
        write_gdbm(path, "joe:mx")
        popmap = open_map(GDBM, str(path), "@")
        assert lookup(popmap, "joe")
        with dbm.gnu.open(str(path), "w") as writer:
            writer[b"ann"] = b"mx"
        assert lookup(popmap, "ann")

    @pytest.mark.usefixtures("no_delay")
    def test_change_on_tmpfs_is_noticed(self) -> None:
        """Where it shows neither in the time nor in the size of the file."""
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            self.test_open_map_does_not_lock_writers_out(Path(folder, "popmap"))

    @pytest.mark.parametrize("data", [b"", b"joe:mx\n", b"\0" * 20_000])
    def test_another_kind_of_file_is_unavailable(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        with pytest.raises(MapUnavailable, match=str(path)):
            lookup(open_map(GDBM, str(path), "@"), "joe")

    @pytest.mark.usefixtures("no_delay")
    @pytest.mark.parametrize("size", [0, 100, 4096, 8192])
    def test_file_truncated_while_open_stays_in_force(self, path: Path, size: int) -> None:
        write_gdbm(path, "\n".join(f"user{number}:mx" for number in range(1000)))
        popmap = open_map(GDBM, str(path), "@")
        assert lookup(popmap, "user1")
        with path.open("r+b") as file:
            file.truncate(size)
        assert lookup(popmap, "user2")

    @pytest.mark.parametrize("size", [100, 4096, 8192, 16384])
    def test_truncated_file_is_unavailable(self, path: Path, size: int) -> None:
        write_gdbm(path, "\n".join(f"user{number}:mx" for number in range(1000)))
        os.truncate(path, size)
        with pytest.raises(MapUnavailable):
            lookup(open_map(GDBM, str(path), "@"), "user2")

    @pytest.mark.slow
    def test_damaged_file_never_crashes_the_process(self, path: Path, tmp_path: Path) -> None:
        write_gdbm(path, "\n".join(f"user{number}:mx{number}" for number in range(300)))
        files = [str(path), str(tmp_path / "damaged")]
        done = subprocess.run(
            [sys.executable, "-m", damage.__name__, *files, "user1", "user150", "nobody"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        last_line = done.stdout.split()[-1:]
        assert (done.returncode, last_line) == (0, ["survived"]), done.stderr[-2000:]


class TestRegex:
    @pytest.mark.parametrize(
        ("text", "key", "destination"),
        [
            ("^joe$: mx", "joe", Destination(Endpoint("mx"))),
            ("^joe$ mx", "joe", Destination(Endpoint("mx"))),
            ("^joe$: mx", "Joe", None),
            ("^joe$: mx", "joey", None),
            ("o: mx", "joe", Destination(Endpoint("jmx"))),
            ("^j: one\n^jo: two", "joe", Destination(Endpoint("one"))),
            ("^(.*)@(.*)$: $1@mx.$2:143", "joe@x", Destination(Endpoint("mx.x", "143"), "joe")),
            ("^(a)(b)?$: $1$2mx$5", "a", Destination(Endpoint("amx$5"))),
            ("^(a|ab)(c|bcd)$: $1.mx", "abcd", Destination(Endpoint("a.mx"))),
            ("^[[:alpha:]]+$: mx", "joe", Destination(Endpoint("mx"))),
            ("^[[:alpha:]]+$: mx", "joe1", None),
            ("^jo{2,3}e$: mx", "jooe", Destination(Endpoint("mx"))),
            ("^[^@]+$: mx", "joe", Destination(Endpoint("mx"))),
            ("'^j o$': mx", "j o", Destination(Endpoint("mx"))),
            (r"^j\\.o$: mx", "j.o", Destination(Endpoint("mx"))),
            (r"^j\\.o$: mx", "jxo", None),
            (r"^j\#o$: mx # comment", "j#o", Destination(Endpoint("mx"))),
            ("a=b: mx", "a=b", Destination(Endpoint("mx"))),
            ("^j.e$: mx", "jöe", Destination(Endpoint("mx"))),
            ("^joe$: mx", "joe\n", None),
            ("^j: $0.mx", "joe", Destination(Endpoint("j.mx"))),
            ("^(j)oe: $0$1$2", "joe", Destination(Endpoint("joej$2"))),
            (r"'^[a\-z]$': mx", "b", Destination(Endpoint("mx"))),
            (r"'^[a\-z]$': mx", "-", None),
            (r"'\<joe\>': mx", "joe", Destination(Endpoint("mx"))),
            (r"'\<joe\>': mx", "joey", None),
            ("'^[[.-.]a]+$': mx", "a-a", Destination(Endpoint("mx"))),
            ("^a**$: mx", "aaa", Destination(Endpoint("mx"))),
            (r"'^\d$': mx", "1", None),
            (r"'^\d$': mx", "d", Destination(Endpoint("mx"))),
        ],
    )
    def test_first_matching_line_gives_the_destination(
        self, path: Path, text: str, key: str, destination: Destination | None
    ) -> None:
        path.write_text(text)
        assert lookup(open_map(REGEX, str(path), "@"), key) == destination

    def test_longest_alternative_matches_as_in_posix(self, path: Path) -> None:
        path.write_text("^(a|ab|abc): $1.mx")
        assert lookup(open_map(REGEX, str(path), "@"), "abcd") == Destination(Endpoint("abc.mx"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("^joe$: mx\n^(ann: mx\n^ann: mx", "line 2"),
            ("\n^joe$: mx\n^ann$\n'^ann$: mx\n", "line 4: unclosed quote"),
        ],
    )
    def test_mistake_affects_only_users_whom_no_line_before_it_matches(
        self, path: Path, text: str, message: str
    ) -> None:
        path.write_text(text)
        popmap = open_map(REGEX, str(path), "@")
        assert lookup(popmap, "joe") == Destination(Endpoint("mx"))
        for _ in range(2):
            with pytest.raises(MapUnavailable, match=f"{path}: {message}"):
                lookup(popmap, "ann")
        with pytest.raises(StartupError, match=f"{path}: {message}"):
            popmap.probe()

    def test_line_without_a_substitution_is_skipped(self, path: Path) -> None:
        path.write_text("^joe$\n^joe$:\n^joe$: mx\n")
        popmap = open_map(REGEX, str(path), "@")
        assert lookup(popmap, "joe") == Destination(Endpoint("mx"))
        popmap.probe()

    def test_file_is_compiled_once(self, path: Path) -> None:
        path.write_text("^joe$: mx")
        popmap = open_map(REGEX, str(path), "@")
        assert isinstance(popmap, PosixRegexMap)
        lookup(popmap, "joe")
        rules = popmap.content
        lookup(popmap, "joe")
        assert popmap.content is rules

    @pytest.mark.parametrize(
        ("text", "key"), [("^(a|aa)+$: mx", "a" * 5000 + "b"), ("a*a*[cd]: mx\n" * 100, "a" * 150)]
    )
    def test_slow_match_is_unavailable_however_many_rules_share_the_time(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str
    ) -> None:
        monkeypatch.setattr("perdition.popmap.backends.posix_regex.MATCH_SECONDS", 0.02)
        path.write_text(text)
        popmap = open_map(REGEX, str(path), "@")
        with pytest.raises(SlowLookup):
            lookup(popmap, key)
        with pytest.raises(MapUnavailable, match="took more than"):
            popmap.lookup_in_thread(Query(key, ENDS))

    def test_slow_lookup_finds_the_same_as_a_fast_one(self, path: Path) -> None:
        path.write_text("^(j.*)$: $1.mx\n")
        popmap = open_map(REGEX, str(path), "@")
        found = lookup(popmap, "joe")
        assert found == popmap.lookup_in_thread(Query("joe", ENDS))
        assert found == Destination(Endpoint("joe.mx"))
