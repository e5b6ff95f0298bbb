"""A popmap in NIS, on real NIS servers in separate namespaces."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perdition.failure import MapUnavailable
from perdition.options.table import Options
from perdition.popmap import Query
from perdition.popmap.kinds import open_map
from tests.maps.test_servers import ENDS, INJECTIONS
from tests.support.folders import ROOT

PROGRAMS = ("unshare", "ip", "rpcbind", "ypserv", "ypbind", "ypwhich")

SITE = """\
set -e
ip link set lo up
echo perdition > /proc/sys/kernel/domainname
mount -t tmpfs tmpfs /var/yp
mount -t tmpfs tmpfs /run
mkdir -p /var/yp/perdition /var/yp/binding /run/rpcbind
echo 'domain perdition server 127.0.0.1' > /run/yp.conf
/usr/lib/yp/makedbm - /var/yp/perdition/user_mail_server
rpcbind
ypserv
ypbind -f /run/yp.conf -no-ping
end=$(($(date +%s) + 20))
until ypwhich >&2; do
    [ "$(date +%s)" -lt "$end" ]
done
exec "$@"
"""
"""A domain with one map, made of standard input; all of it ends with the command behind."""

LOOKUPS = """\
import json, sys
from perdition.options.table import Options
from perdition.popmap import Query
from perdition.popmap.kinds import open_map
from perdition.endpoint import ConnectionEnds

*names, keys = sys.argv[1:]
popmap = open_map(Options(map_library="nis", map_library_opt=names[0]))
for key in json.loads(keys):
    try:
        found = popmap.lookup(Query(key, ConnectionEnds("", 0, "", 0)))
        answer = found and [found.user, *found.server]
    except Exception as failure:
        answer = str(failure)
    print(json.dumps([key, answer]))
popmap.close()
"""


def lookups(folder: Path, name: str, keys: list[str]) -> dict[str, object]:
    """What a map of a domain has for each key."""
    if absent := [name for name in PROGRAMS if not shutil.which(name, path="/usr/bin:/usr/sbin")]:
        pytest.skip(f"not installed: {', '.join(absent)}")
    (folder / "site").write_text(SITE)
    done = subprocess.run(
        [
            *("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc"),
            *("--kill-child", "sh", str(folder / "site")),
            *(sys.executable, "-c", LOOKUPS, name, json.dumps(keys)),
        ],
        input="joe north\nann south:1143\nmax maximilian@north\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    if "unshare failed" in done.stderr:
        pytest.skip(f"no namespaces here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


def test_keys_are_found_and_injections_are_not(folder: Path) -> None:
    found = {
        "joe": ["", "north", ""],
        "ann": ["", "south", "1143"],
        "max": ["maximilian", "north", ""],
    }
    missing = ["nobody", "JOE", "", *INJECTIONS]
    expected = {**found, **dict.fromkeys(missing)}
    assert lookups(folder, "", list(expected)) == expected


def test_missing_map_is_unavailable(folder: Path) -> None:
    [answer] = lookups(folder, "nosuch", ["joe"]).values()
    assert answer == "popmap: nis: No such map in server's domain"


def test_system_without_nis_is_unavailable() -> None:
    popmap = open_map(Options(map_library="nis", map_timeout=2))
    assert popmap.blocks
    with pytest.raises(MapUnavailable, match="popmap: nis: "):
        popmap.lookup(Query("joe", ENDS))
    popmap.close()
