"""Fixtures with two real servers, each with users of its own."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.client_connection import OpenClients
from tests.support.dovecot import Dovecot
from tests.support.folders import public_folder
from tests.support.perdition import Perditions, popmap
from tests.support.real_server import RealServer

PASSWORDS = {"joe": "secret-of-joe", "ann": "secret-of-ann", "max": "secret-of-max"}


@dataclass(frozen=True)
class TwoServers:
    """Two real servers: north has joe and max, south has ann."""

    north: Dovecot
    south: Dovecot

    def real_server(self, user: str) -> Dovecot:
        """That user's server."""
        return self.south if user == "ann" else self.north

    def popmap(self, folder: Path, protocol: str) -> Path:
        """The popmap for one protocol. Its entries have ports, as both servers have one address."""
        entries = {user: self.real_server(user).server(protocol) for user in PASSWORDS}
        return popmap(folder / f"popmap.{protocol}.db", entries)

    def evidence(self) -> str:
        return f"{self.north.evidence()}\n{self.south.evidence()}"


@pytest.fixture(scope="session")
def servers() -> Iterator[TwoServers]:
    """Two Dovecots for all tests."""
    if reason := Dovecot.missing():
        pytest.skip(reason)
    with (
        public_folder() as north,
        public_folder() as south,
        Dovecot(north, {user: PASSWORDS[user] for user in ("joe", "max")}) as northern,
        Dovecot(south, {"ann": PASSWORDS["ann"]}) as southern,
    ):
        yield TwoServers(northern, southern)


@pytest.fixture(scope="session")
def small_server() -> Iterator[RealServer]:
    """A real server that needs no root and handles thousands of sessions; joe has mail there."""
    with RealServer("small", {"joe": PASSWORDS["joe"]}) as server:
        yield server


@pytest.fixture
def perditions(folder: Path) -> Iterator[Perditions]:
    """Starts perditions, whose options name the real server; they end with the test."""
    with ExitStack() as stack:
        yield Perditions(folder, stack)


@pytest.fixture
def clients() -> Iterator[OpenClients]:
    """Connections that are closed at the end of the test."""
    with closing(OpenClients(PASSWORDS.__getitem__)) as found:
        yield found
