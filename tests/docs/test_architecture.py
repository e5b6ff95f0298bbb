"""ARCHITECTURE.md and CONTRIBUTING.md name all modules, and nothing that does not exist."""

import builtins
import re
from pathlib import Path

import pytest

from tests.unit.test_layers import LAYERS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "perdition"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
PAGES = [ARCHITECTURE, ROOT / "CONTRIBUTING.md"]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

CODE = "\n".join(
    path.read_text() for top in (PACKAGE, ROOT / "tests/support") for path in top.rglob("*.py")
)


def quoted(text: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`\n]+)`", text)


def module_rows() -> list[str]:
    """The names in the first column of the map of modules, from top to bottom."""
    section = ARCHITECTURE.read_text().partition("## 3. ")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name for row in rows for name in quoted(row)]


def test_every_module_is_in_the_map_once() -> None:
    modules = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" or path.parent == PACKAGE
    }
    named = [name for name in module_rows() if name.endswith(".py")]
    assert set(named) == modules
    assert len(named) == len(modules)


def test_map_is_in_the_order_of_the_layers() -> None:
    layers = [name.partition("/")[0].removesuffix(".py") for name in module_rows()]
    expected = [layer or "__init__" for layer in LAYERS]
    assert list(dict.fromkeys(layers)) == expected


@every_page
def test_every_path_exists(page: Path) -> None:
    paths = [
        name.partition("::")[0]
        for name in quoted(page.read_text())
        if re.fullmatch(r"(?!/)[\w.@/-]+(/|/[\w.@-]+|\.py|\.md|\.toml)(::\w+)?", name)
    ]
    assert paths
    assert not [path for path in paths if not any((top / path).exists() for top in (ROOT, PACKAGE))]


@every_page
def test_every_test_exists(page: Path) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text())
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not re.search(rf"^ *def {test}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert not missing


@every_page
def test_every_class_and_method_exists(page: Path) -> None:
    missing = [
        name
        for name in quoted(page.read_text())
        if (found := re.fullmatch(r"([A-Z]\w*[a-z]\w*)(?:\.(\w+))?", name))
        and not (hasattr(builtins, name) or has(found[1], found[2]))
    ]
    assert not missing


@every_page
def test_every_function_and_option_exists(page: Path) -> None:
    names = re.findall(r"`([a-z]+(?:_[a-z]+)+)`", page.read_text())
    assert names
    assert not [name for name in names if not re.search(rf"^ *(def )?{name}\b", CODE, re.MULTILINE)]


def has(name: str, member: str | None) -> bool:
    """Tell whether there is a class of that name, and whether it has the member."""
    classes = re.findall(rf"^class {name}\b.*?(?=^\S|\Z)", CODE, re.MULTILINE | re.DOTALL)
    inside = re.compile(rf"\b(def |self\.){member}\b|^    {member}:", re.MULTILINE)
    return any(not member or inside.search(body) for body in classes)
