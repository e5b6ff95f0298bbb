"""The manual pages and the sample configuration: complete, true to the tables, well-formed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from perdition.failure import Failure
from perdition.options import config_file
from perdition.options.configuration import NAMES
from perdition.options.manual import page
from perdition.options.table import OPTIONS, GivenOptions
from perdition.popmap.kinds import KINDS
from tests.support.wait import DEADLINE

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "man/perdition.8"
SAMPLE = ROOT / "packaging/etc/perdition/perdition.conf"
PAGES = sorted(path for path in (ROOT / "man").iterdir() if not path.is_symlink())

CHECKS = ("mandoc -T lint", "groff -ww -man -z", "man --warnings -l")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_is_well_formed(path: Path, check: str) -> None:
    command = [*check.split(), str(path)]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert not done.stderr
    if command[0] != "man":
        assert not done.stdout


@pytest.mark.parametrize("path", [MANUAL, SAMPLE], ids=lambda path: path.name)
def test_page_has_the_option_table_as_it_is(path: Path) -> None:
    assert path.read_text() == page(path), "the option table has changed: run 'make manual'"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_its_page(name: str) -> None:
    link = ROOT / f"man/{name}.8"
    assert link.is_symlink()
    assert link.resolve() == MANUAL
    assert f"\n{name} " in MANUAL.read_text(), "the table of names lacks it"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_popmap_is_told(kind: str) -> None:
    assert f".SS {kind}\n" in (ROOT / "man/perditiondb.5").read_text()


def test_every_reason_for_a_failed_login_is_told() -> None:
    reasons = {failure.status.partition(":")[0] for failure in failures(Failure)}
    told = MANUAL.read_text().replace("\\-", "-")
    assert not [reason for reason in reasons if reason not in told]


def failures(kind: type[Failure]) -> list[type[Failure]]:
    """All failures of a kind."""
    return [kind for one in kind.__subclasses__() for kind in (one, *failures(one))]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (MANUAL, r"All options except(.*?)can also be set in the configuration file"),
        (MANUAL.with_name("perdition.conf.5"), r"allowed only on the command line(.*?)are ignored"),
    ],
    ids=["perdition.8", "perdition.conf.5"],
)
def test_options_that_the_file_may_not_have_are_told(path: Path, sentence: str) -> None:
    found = re.search(sentence, path.read_text(), re.DOTALL)
    assert found
    wanted = {name for name, option in OPTIONS.items() if not option.in_file}
    assert {word for word in re.findall(r"\w+", found[1]) if word in OPTIONS} == wanted


def sample_entries() -> dict[str, str]:
    """The options of the sample configuration, as they are with the # in front of them removed."""
    lines = [
        line.removeprefix("#")
        for line in SAMPLE.read_text().splitlines()
        if line.startswith("#") and not line.startswith("# ")
    ]
    return {entry.key: entry.value or "" for entry in config_file.parse("\n".join(lines))}


def test_sample_has_all_options_that_a_file_may_have() -> None:
    wanted = [name for name, option in OPTIONS.items() if option.in_file]
    assert list(sample_entries()) == wanted


def test_sample_changes_nothing() -> None:
    assert not list(config_file.parse(SAMPLE.read_text()))


def test_uncommented_samples_are_the_defaults() -> None:
    given = GivenOptions()
    for name, value in sample_entries().items():
        if value != OPTIONS[name].type.argument:
            given.add(name, value)
    changed = {
        name: (value, OPTIONS[name].default)
        for name, value in given.values.items()
        if not same(value, OPTIONS[name].default)
    }
    assert not changed


def same(value: object, default: object) -> bool:
    """Whether a value is the default; a slash at the end of a folder makes no difference."""
    if isinstance(value, str) and isinstance(default, str):
        return value.rstrip("/") == default.rstrip("/")
    return value == default
