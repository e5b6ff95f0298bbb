"""The layers of the code: which module may import which."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

LAYERS = (
    "__main__",
    "cli",
    "makedb",
    "lookup_command",
    "process",
    "session",
    "login",
    "site",
    "upstream",
    "local_authentication",
    "helper",
    "dialogue_runner",
    "client_limits",
    "metrics",
    "popmap",
    "username",
    "net",
    "privileges",
    "options",
    "protocol",
    "session_log",
    "log",
    "exit_status",
    "scoreboard",
    "files",
    "failure",
    "endpoint",
    "",
)
"""Modules and packages from top to bottom: each imports only from itself and from below."""

PURE = ("socket", "ssl", "select", "selectors", "asyncio", "threading", "time", "signal")
"""Modules that a dialogue must not import."""

SOURCES = {
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((CHECKOUT / "perdition").rglob("*.py"))
}
every_module = pytest.mark.parametrize("module", SOURCES)


def imports(module: str) -> Iterator[str]:
    """The modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module} line {node.lineno}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in SOURCES else node.module


def layer(module: str) -> str:
    """The layer of a module: its own or that of its package."""
    return module.removeprefix("perdition").removeprefix(".").partition(".")[0]


@every_module
def test_imports_point_downwards(module: str) -> None:
    own = LAYERS.index(layer(module))
    above = [
        imported
        for imported in imports(module)
        if imported in SOURCES and LAYERS.index(layer(imported)) < own
    ]
    assert not above


@pytest.mark.parametrize("module", [name for name in SOURCES if "protocol" in name])
def test_dialogues_import_no_sockets_no_loop_and_no_options(module: str) -> None:
    forbidden = [
        imported
        for imported in imports(module)
        if imported.partition(".")[0] in PURE
        or (imported in SOURCES and layer(imported) not in ("protocol", "failure"))
    ]
    assert not forbidden


def test_every_module_has_a_layer() -> None:
    assert {layer(module) for module in SOURCES} == set(LAYERS)
