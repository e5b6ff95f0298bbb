"""Layers: which modules may import which."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

LAYERS = (
    "__main__",
    "cli",
    "makedb",
    "lookup",
    "process.master",
    "process.sockets",
    "process.children",
    "process.worker",
    "process.metrics",
    "metrics",
    "process.inetd",
    "session",
    "process.furnish",
    "login",
    "upstream",
    "auth",
    "clients",
    "converse",
    "process",
    "configuration",
    "manual",
    "helper_line",
    "net.tls_listening",
    "net.tls_outgoing",
    "net.tls",
    "popmap",
    "username",
    "options",
    "option_kinds",
    "net",
    "protocol",
    "config_file",
    "log",
    "tally",
    "process.scoreboard",
    "endpoint",
    "failure",
    "",
)
"""From the highest to the lowest: no module imports from a higher layer. A package is one layer,
except for its modules that are listed themselves."""

NOT_IN_PROTOCOLS = (
    "socket",
    "ssl",
    "select",
    "selectors",
    "asyncio",
    "threading",
    "time",
    "signal",
)
"""What protocols must not import."""

SOURCES = {
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((CHECKOUT / "perdition").rglob("*.py"))
}
every_module = pytest.mark.parametrize("module", SOURCES)


def imports(module: str) -> Iterator[str]:
    """The modules that a module imports, at its top or later."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module} line {node.lineno}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in SOURCES else node.module


def layer(module: str) -> str:
    """The layer of a module."""
    name = module.removeprefix("perdition").removeprefix(".")
    while name not in LAYERS:
        assert "." in name, f"{module} has no layer; add it to LAYERS"
        name = name.rpartition(".")[0]
    return name


@every_module
def test_no_module_imports_from_a_higher_layer(module: str) -> None:
    here = LAYERS.index(layer(module))
    above = [
        imported
        for imported in imports(module)
        if imported in SOURCES and LAYERS.index(layer(imported)) < here
    ]
    assert not above


@pytest.mark.parametrize("module", [name for name in SOURCES if "protocol" in name])
def test_protocols_import_neither_sockets_nor_loop_nor_options(module: str) -> None:
    forbidden = [
        imported
        for imported in imports(module)
        if imported.partition(".")[0] in NOT_IN_PROTOCOLS
        or (imported in SOURCES and layer(imported) not in ("protocol", "failure"))
    ]
    assert not forbidden


def test_every_layer_has_a_module() -> None:
    assert {layer(module) for module in SOURCES} == set(LAYERS)
