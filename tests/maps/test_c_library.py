"""Libraries that a site has made: C, by perditiondb(5)'s interface, and Python, by entry points."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.failure import MapUnavailable, StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap.backends.c_library import CLibraryMap
from perdition.popmap.kinds import open_map
from tests.support.folders import ROOT
from tests.support.wait import until

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)

if not shutil.which("cc"):
    pytest.skip("not installed: cc", allow_module_level=True)

GET = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[1000];

static void note(const char *what)
{
    FILE *file = fopen(path, "a");
    fprintf(file, "%s %d\\n", what, (int)getpid());
    fclose(file);
}

int dbserver_init(char *options)
{
    strncpy(path, options, sizeof path - 1);
    if (!strcmp(options, "no"))
        return 5;
    note("init");
    return 0;
}

int dbserver_fini(void)
{
    note("fini");
    return 0;
}

int dbserver_get(const char *key, const char *options, char **value, size_t *length)
{
    if (!strcmp(key, "crash"))
        abort();
    if (!strcmp(key, "hang"))
        for (;;)
            pause();
    if (!strcmp(key, "down"))
        return -1;
    if (!strcmp(key, "fault"))
        return -3;
    if (!strcmp(key, "odd"))
        return 4711;
    if (strcmp(key, "joe") && strcmp(key, "option") && strcmp(key, ""))
        return -2;
    *value = strdup(!strcmp(key, "joe") ? "max@north:1143" : options);
    *length = strlen(*value);
    return 0;
}
"""

GET2 = """
#include <stdlib.h>
#include <string.h>

int dbserver_get2(const char *key, const char *options, char **user, char **server, char **port)
{
    if (strcmp(key, "joe") && strcmp(key, "six"))
        return -2;
    *user = strcmp(key, "six") ? strdup("max") : NULL;
    *server = strdup(strcmp(key, "six") ? "north" : "2001:db8::1");
    *port = strcmp(key, "six") ? NULL : strdup("1143");
    return 0;
}
"""

VARIABLES = """
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

extern struct utsname *system_uname;
extern struct sockaddr_storage *peername, *sockname;

static char start[100];

static void write_address(char *text, const struct sockaddr_storage *address)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getnameinfo((const struct sockaddr *)address, sizeof *address, host, sizeof host, port,
                    sizeof port, NI_NUMERICHOST | NI_NUMERICSERV))
        strcpy(text, "none");
    else
        sprintf(text, "%s %s", host, port);
}

int dbserver_init(char *options)
{
    strcpy(start, system_uname->nodename);
    return peername->ss_family || sockname->ss_family;
}

int dbserver_get(const char *key, const char *options, char **value, size_t *length)
{
    char peer[2000], own[2000];

    write_address(peer, peername);
    write_address(own, sockname);
    *length = asprintf(value, "%s, %s, %s", start, peer, own);
    return 0;
}
"""


def compiled(folder: Path, source: str, *arguments: str) -> str:
    """A shared library made of the source."""
    library = folder / "libsite.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), *arguments]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    return str(library)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled(tmp_path_factory.mktemp("library"), GET)


class LibraryMap:
    """A map of the library, and what the library has noted."""

    def __init__(self, library: str, notes: Path, seconds: int = 10) -> None:
        self.file = notes
        self.popmap = opened(library, str(notes), seconds)

    def lookup(self, key: str) -> Destination | None:
        return self.popmap.lookup(Query(key, ENDS))

    def notes(self) -> list[str]:
        return [line.split()[0] for line in self.file.read_text().splitlines()]

    def processes(self) -> set[int]:
        """The processes that the library is in."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        pids = {int(line.split()[1]) for line in lines}
        return {pid for pid in pids if Path(f"/proc/{pid}/exe").exists()}

    def close(self) -> None:
        """Close the map, and wait until nothing is left of it."""
        self.popmap.close()
        until(lambda: not self.processes(), lambda: f"end of {self.processes()}")


def opened(library: str, option: str = "", seconds: int = 10) -> PopMap:
    return open_map(Options(map_library=library, map_library_opt=option, map_timeout=seconds))


def test_library_returns_a_value(library: str, tmp_path: Path) -> None:
    library_map = LibraryMap(library, tmp_path / "notes")
    assert isinstance(library_map.popmap, CLibraryMap)
    assert library_map.popmap.blocks
    assert library_map.lookup("joe") == Destination(Endpoint("north", "1143"), "max")
    assert library_map.lookup("option") == Destination(Endpoint(str(library_map.file)))
    assert library_map.lookup("") == Destination(Endpoint(str(library_map.file)))
    assert library_map.lookup("nobody") is None
    assert library_map.lookup("joe\0") is None
    assert len(library_map.processes()) == 1
    assert os.getpid() not in library_map.processes()
    library_map.close()
    assert library_map.notes() == ["init", "fini"]


def test_library_returns_user_server_and_port(tmp_path: Path) -> None:
    popmap = opened(compiled(tmp_path, GET2))
    assert popmap.lookup(Query("joe", ENDS)) == Destination(Endpoint("north"), "max")
    assert popmap.lookup(Query("six", ENDS)) == Destination(Endpoint("2001:db8::1", "1143"))
    assert popmap.lookup(Query("nobody", ENDS)) is None
    popmap.close()


def test_library_can_read_variables_of_the_program(tmp_path: Path) -> None:
    """A library knows the system, and at each lookup whose login it is for."""
    popmap = opened(compiled(tmp_path, VARIABLES, "-D_GNU_SOURCE", "-Wl,-z,now"))
    popmap.check()

    def seen(*ends: str | int) -> str:
        found = popmap.lookup(Query("joe", ConnectionEnds(*ends)))  # type: ignore[arg-type]
        assert found
        return found.server.host

    here = os.uname().nodename
    assert seen(*ENDS) == f"{here}, 192.0.2.1 4242, 192.0.2.9 143"
    assert seen("2001:db8::1", 1, "::1", 65535) == f"{here}, 2001:db8::1 1, ::1 65535"
    assert seen("fe80::1%lo", 1, "fe80::2%1", 2) == f"{here}, fe80::1%lo 1, fe80::2%lo 2"
    assert seen("", 0, "", 0) == f"{here}, none, none"
    popmap.close()


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("down", "status -1: cannot reach the database"),
        ("fault", "status -3"),
        ("odd", "status 4711"),
        ("crash", "the lookup process was killed by SIGABRT"),
    ],
)
def test_failures_affect_no_other_lookup(
    library: str, tmp_path: Path, key: str, complaint: str
) -> None:
    library_map = LibraryMap(library, tmp_path / "notes")
    library_map.lookup("joe")
    with pytest.raises(MapUnavailable, match=complaint):
        library_map.lookup(key)
    assert library_map.lookup("joe") == Destination(Endpoint("north", "1143"), "max")
    library_map.close()


def test_hanging_library_ends_at_the_time_limit(library: str, tmp_path: Path) -> None:
    library_map = LibraryMap(library, tmp_path / "notes", seconds=2)
    began = time.monotonic()
    with pytest.raises(MapUnavailable, match="timed out"):
        library_map.lookup("hang")
    assert time.monotonic() - began < 4
    assert library_map.lookup("joe") == Destination(Endpoint("north", "1143"), "max")
    library_map.close()


def test_reopen_ends_and_starts_the_library(library: str, tmp_path: Path) -> None:
    library_map = LibraryMap(library, tmp_path / "notes")
    library_map.lookup("joe")
    library_map.popmap.reopen()
    until(lambda: library_map.notes() == ["init", "fini"], "the library ends")
    library_map.lookup("joe")
    assert library_map.notes() == ["init", "fini", "init"]
    library_map.close()


def test_library_that_cannot_start_is_unavailable(library: str) -> None:
    with pytest.raises(MapUnavailable, match="dbserver_init returned 5"):
        opened(library, "no").lookup(Query("joe", ENDS))


def test_process_exits_with_its_parent(library: str, tmp_path: Path) -> None:
    """A worker that is killed leaves no library behind, not even one that waits."""
    program = (
        "import sys\n"
        "from perdition.options.table import Options\n"
        "from perdition.popmap import Query\n"
        "from perdition.popmap.kinds import open_map\n"
        "from perdition.endpoint import ConnectionEnds\n"
        "popmap = open_map(Options(map_library=sys.argv[1], map_library_opt=sys.argv[2]))\n"
        "popmap.lookup(Query('hang', ConnectionEnds('', 0, '', 0)))\n"
    )
    notes = tmp_path / "notes"
    asker = subprocess.Popen([sys.executable, "-c", program, library, str(notes)])
    until(notes.exists, "the library is asked")
    [pid] = until(lambda: [line.split()[1] for line in notes.read_text().splitlines()], "its note")
    asker.kill()
    asker.wait()
    until(lambda: not Path(f"/proc/{pid}/exe").exists(), "the library's end")


@pytest.mark.parametrize(
    ("source", "arguments", "complaint"),
    [
        ("int x;", (), "neither dbserver_get nor dbserver_get2 found in it"),
        (
            "int f(void); int dbserver_get(void) { return f(); }",
            ("-Wl,-z,now",),
            "undefined symbol",
        ),
        (
            "#include <stdlib.h>\n__attribute__((constructor)) static void f(void) { abort(); }",
            (),
            "was killed by SIGABRT",
        ),
    ],
)
def test_file_that_is_not_a_library_prevents_the_start(
    tmp_path: Path, source: str, arguments: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(StartupError, match=complaint):
        opened(compiled(tmp_path, source, *arguments)).check()


def test_missing_file_prevents_the_start() -> None:
    with pytest.raises(StartupError, match="No such file or directory; expected a library"):
        opened("/usr/lib/libperditiondb_site.so.0").check()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a package with that module, `popmap_of_site`, which offers that entry point."""

    def install(module: str, entry_point: str) -> None:
        (tmp_path / "popmap_of_site.py").write_text(module)
        metadata = tmp_path / "popmap_of_site-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: popmap-of-site\nVersion: 1\n"
        )
        (metadata / "entry_points.txt").write_text(f"[perdition.popmaps]\n{entry_point}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "popmap_of_site", raising=False)

    return install


def test_python_package_offers_a_kind(package: Callable[[str, str], None]) -> None:
    """The example of the documentation."""
    page = (ROOT / "perdition/popmap/README.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    package(example, "byletter = popmap_of_site:ByLetter")
    popmap = opened("byletter", "example.org")
    assert popmap.lookup(Query("joe", ENDS)) == Destination(Endpoint("j.example.org"))
    assert popmap.lookup(Query("", ENDS)) is None


@pytest.mark.parametrize(
    ("module", "entry_point", "complaint"),
    [
        (
            "",
            "broken = no_such:Map",
            "map_library broken: No module named 'no_such'; repair or remove the package",
        ),
        (
            "def open_map(options):\n    raise ValueError('secret')\n",
            "broken = popmap_of_site:open_map",
            "map_library broken: ValueError in .*popmap_of_site.py line 2; check map_library_opt",
        ),
    ],
)
def test_unusable_python_package_is_reported(
    module: str, entry_point: str, complaint: str, package: Callable[[str, str], None]
) -> None:
    """In one line, at the start as at SIGHUP, which then changes nothing."""
    package(module, entry_point)
    with pytest.raises(StartupError, match=complaint):
        opened("broken")


def test_unknown_kind_prevents_the_start() -> None:
    with pytest.raises(StartupError, match="map_library none: unknown kind of popmap; expected"):
        opened("none")
