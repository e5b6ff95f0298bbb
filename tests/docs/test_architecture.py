"""ARCHITECTURE.md and CONTRIBUTING.md name all modules, and nothing that does not exist.

Neither do the docstrings of perdition.
"""

import builtins
import io
import keyword
import re
import token
import tokenize
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


MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGE_CODE = "\n".join(path.read_text() for path in MODULES)
DEFINED = {
    *re.findall(r"^ *(?:async )?(?:def|class) (\w+)", PACKAGE_CODE, re.MULTILINE),
    *re.findall(r"^(?: *self\.)?(\w+)(?:: [^=\n]+)? = ", PACKAGE_CODE, re.MULTILINE),
    *re.findall(r"^    (\w+): ", PACKAGE_CODE, re.MULTILINE),
    *(path.stem for path in PACKAGE.rglob("*")),
}
OF_OTHERS = {"localhost", "ps", "ssl"}
"""Names in docstrings that are those of other programs and libraries."""


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_name_in_a_docstring_exists(module: Path) -> None:
    """It is in the code of the same module, or defined in another one."""
    assert not [
        name
        for name in names_in_docstrings(module.read_text())
        if not all(part in known(module) for part in name.split("."))
    ]


def test_names_that_do_not_exist_are_found() -> None:
    text = '"""See ``arm_later`` and ``Loop.vanish``, not ``host[:port]``."""'
    assert names_in_docstrings(text) == ["arm_later", "Loop.vanish"]
    assert not {"arm_later", "vanish"} & known(PACKAGE / "net/loop.py")


def names_in_docstrings(text: str) -> list[str]:
    """The names between double backquotes, without syntax such as ``host[:port]``."""
    return re.findall(r"``([A-Za-z_]\w*(?:\.\w+)*)``", text)


def known(module: Path) -> set[str]:
    """Every name that a docstring of the module may contain."""
    tokens = list(tokenize.generate_tokens(io.StringIO(module.read_text()).readline))
    names = {each.string for each in tokens if each.type == token.NAME}
    strings = {each.string.strip("\"'") for each in tokens if each.type == token.STRING}
    return names | strings | DEFINED | OF_OTHERS | set(keyword.kwlist)


def has(name: str, member: str | None) -> bool:
    """Tell whether there is a class of that name, and whether it has the member."""
    classes = re.findall(rf"^class {name}\b.*?(?=^\S|\Z)", CODE, re.MULTILINE | re.DOTALL)
    inside = re.compile(rf"\b(def |self\.){member}\b|^    {member}:", re.MULTILINE)
    return any(not member or inside.search(body) for body in classes)
