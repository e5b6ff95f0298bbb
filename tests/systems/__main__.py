"""What `make testsystems` does: tries the demo, the unit tests and the .deb on Debian's releases.

    python3 -m tests.systems [--package-only] [RELEASE...]

Each release is a bare system in a folder, made once and kept below ~/.cache. A clone of what is
committed installs there what it needs, as for a newcomer with root, and builds the package. The
package is then tried by tests/packaging on a second system, which has nothing but that.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar
from xml.etree import ElementTree

from tests.support import debian
from tests.support.folders import public_folder
from tests.support.machine import ROOT, Machine

RELEASES = ("bookworm", "trixie", "forky")
"""Debian 12, 13 and 14."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "perdition-systems")
LOGS = ROOT / "dist" / "systems"
CLONE = "/srv/perdition"
NEWCOMER = ("ca-certificates", "git", "make", "python3")
"""What is there before perdition's own commands; the README asks for it."""

COLUMNS = {
    "install to purge": ("test_fresh_install_until_purge",),
    "logins": ("test_init_script_with_all_protocols",),
    "from 2.2": (
        "test_takes_over_from_perdition_22",
        "test_takes_over_with_the_packages_of_maps",
        "test_comes_after_perdition_22_that_is_removed",
    ),
    "from ours": ("test_upgrade_of_ours",),
}
"""What tests of the package stand for; the table has the others in a column of their own."""

OK, FAILED, NOT_TRIED = "ok", "FAILED", "-"

Row = dict[str, str]
T = TypeVar("T")


class NewcomersMachine(Machine):
    """A machine on this system's network, with its way to the package registries."""

    namespaces: ClassVar[tuple[str, ...]] = ("--mount", "--pid")
    seconds: ClassVar[float] = debian.SECONDS

    def prepare(self) -> None:
        """Clone what is committed; let no package start a service."""
        for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf"):
            if Path(file).exists():
                self.write(file, Path(file).read_text())
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        if authorities.exists():
            self.write("/etc/perdition-authorities.pem", authorities.read_text())
        self.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")
        self.does("chmod +x /usr/sbin/policy-rc.d")
        clone = self.folder.parent / "clone"
        git = ("git", "-c", f"safe.directory={ROOT}", "clone", "--quiet")
        subprocess.run([*git, ROOT, clone], check=True)
        shutil.copytree(clone, self.root / CLONE.lstrip("/"), symlinks=True)

    def makes(self, target: str) -> bool:
        """Run commands in the clone; tells whether they succeed."""
        pip = "export PIP_CERT=/etc/perdition-authorities.pem"
        return self.tries(f"{pip}; cd {CLONE} && {target}").returncode == 0


def main() -> int:
    """Try all, print the table; returns the status."""
    parser = argparse.ArgumentParser(prog="tests.systems")
    parser.add_argument("--package-only", action="store_true", help="neither demo nor unit tests")
    parser.add_argument("releases", nargs="*", metavar="RELEASE", default=RELEASES)
    options = parser.parse_args()
    if os.getuid() != 0:
        sys.exit("only root can make systems: sudo make testsystems")
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    rows = {release: try_release(release, options.package_only) for release in options.releases}
    print_table(rows)
    good = all(not text.startswith(FAILED) for row in rows.values() for text in row.values())
    if not good:
        print(f"What was said is in {LOGS}")
    return not good


def try_release(release: str, package_only: bool) -> Row:
    """Try a release; a step that cannot be tried for want of another is left out."""
    row: Row = {}
    try:
        system = timed(row, "system", lambda: base_system(release))
    except (AssertionError, subprocess.TimeoutExpired) as error:
        row["system"] = FAILED
        write_log(release, "system", str(error))
        return row
    with public_folder() as folder, NewcomersMachine(folder, system) as machine:
        machine.prepare()
        row["python"] = machine.does("python3 --version").split()[1]
        steps = {
            "demo": "make demo",
            "unit tests": "make .venv/built-for-test && .venv/bin/pytest -q tests/unit",
        }
        for name, commands in ({} if package_only else steps).items():
            timed_step(row, name, machine, commands)
        timed_step(row, "build", machine, "make deb")
        lintian = 'said=$(lintian --allow-root --pedantic dist/*.deb) && [ -z "$said" ]'
        timed_step(row, "lintian", machine, f'{lintian} || {{ echo "$said"; false; }}')
        write_log(release, "newcomer", machine.evidence())
        packages = folder / "packages"
        packages.mkdir()
        for deb in Path(machine.root, CLONE.lstrip("/"), "dist").glob("*.deb"):
            shutil.copy(deb, packages)
        if row["build"].startswith(OK):
            row |= test_package(release, folder, packages)
    return row


def base_system(release: str) -> Path:
    """The folder of a release's bare system, which is made if there is none yet."""
    system = CACHE / release
    if not system.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{release}.", dir=CACHE) as folder:
            debian.make_system(Path(folder, release), release, NEWCOMER)
            Path(folder, release).rename(system)
    return system


def test_package(release: str, folder: Path, packages: Path) -> Row:
    """What pytest tells of the package's tests."""
    report = folder / "report.xml"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--durations=0", "tests/packaging/test_deb.py"),
            *(f"--release={release}", f"--debs={packages}", f"--junitxml={report}"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    write_log(release, "package", done.stdout)
    if not report.exists():
        return {"other tests": FAILED}
    outcomes = {
        str(case.get("name")): case.find("failure") is None
        and case.find("error") is None
        and case.find("skipped") is None
        for case in ElementTree.parse(report).iter("testcase")
    }
    row = {
        column: OK if all(outcomes.pop(name, False) for name in names) else FAILED
        for column, names in COLUMNS.items()
    }
    bad = list(outcomes.values()).count(False)
    row["other tests"] = f"{FAILED} {bad}" if bad else f"{OK}, {len(outcomes)}"
    return row


def timed(row: Row, name: str, step: Callable[[], T]) -> T:
    """Do a step, and have the row tell how long it took."""
    begin = time.monotonic()
    result = step()
    word = FAILED if result is False else OK
    row[name] = f"{word}, {time.monotonic() - begin:.0f} s"
    print(f"{name}: {row[name]}", flush=True)
    return result


def timed_step(row: Row, name: str, machine: NewcomersMachine, commands: str) -> None:
    """Do a step on a machine."""
    timed(row, name, lambda: machine.makes(commands))


def write_log(release: str, name: str, text: str) -> None:
    """Keep what was said."""
    (LOGS / f"{release}-{name}.log").write_text(text)


def print_table(rows: dict[str, Row]) -> None:
    """Print a line for each release."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["", *names]]
    lines += [
        [release, *(row.get(name, NOT_TRIED) for name in names)] for release, row in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
