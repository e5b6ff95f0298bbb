"""The house: who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

FLOORS = (
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
"""From the roof to the ground: nobody imports from above. A room is all on the floor of its name,
but for the modules that have one of their own."""

PURE = ("socket", "ssl", "select", "selectors", "asyncio", "threading", "time", "signal")
"""What a dialogue has no use for."""

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


def floor(module: str) -> str:
    """The floor that a module is on."""
    rooms = module.removeprefix("perdition").removeprefix(".")
    while rooms not in FLOORS:
        assert "." in rooms, f"{module} has no floor yet"
        rooms = rooms.rpartition(".")[0]
    return rooms


@every_module
def test_nobody_imports_from_above(module: str) -> None:
    here = FLOORS.index(floor(module))
    above = [
        imported
        for imported in imports(module)
        if imported in SOURCES and FLOORS.index(floor(imported)) < here
    ]
    assert not above


@pytest.mark.parametrize("module", [name for name in SOURCES if "protocol" in name])
def test_dialogues_know_no_sockets_no_loop_and_no_options(module: str) -> None:
    strange = [
        imported
        for imported in imports(module)
        if imported.partition(".")[0] in PURE
        or (imported in SOURCES and floor(imported) not in ("protocol", "failure"))
    ]
    assert not strange


def test_every_floor_is_lived_on() -> None:
    assert {floor(module) for module in SOURCES} == set(FLOORS)
