"""A site of two real servers, each with users of its own."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.dovecot import Dovecot
from tests.support.folders import public_folder
from tests.support.proxy import Proxy, popmap
from tests.support.real_server import RealServer

PASSWORDS = {"joe": "secret-of-joe", "ann": "secret-of-ann", "max": "secret-of-max"}


@dataclass(frozen=True)
class Site:
    """Two real servers: joe's and max's is north, ann's is south."""

    north: Dovecot
    south: Dovecot

    def real_server(self, user: str) -> Dovecot:
        """Where that user lives."""
        return self.south if user == "ann" else self.north

    def popmap(self, folder: Path, protocol: str) -> Path:
        """The popmap for one protocol: the two servers share an address, so entries have ports."""
        entries = {user: self.real_server(user).server(protocol) for user in PASSWORDS}
        return popmap(folder / f"popmap.{protocol}.db", entries)

    def evidence(self) -> str:
        """Both servers' logs."""
        return f"{self.north.evidence()}\n{self.south.evidence()}"


class Proxies:
    """The perditions that a test starts; they end with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._started: list[Proxy] = []

    def start(self, protocol: str, *options: str | Path, pid_file: Path | None = None) -> Proxy:
        """A perdition of that name that listens."""
        proxy = Proxy(protocol, self._folder, *options, pid_file=pid_file)
        self._started.append(proxy)
        return self._stack.enter_context(proxy)

    def of(self, protocol: str) -> Proxy:
        """The one for that protocol."""
        [proxy] = [proxy for proxy in self._started if proxy.protocol == protocol]
        return proxy

    def evidence(self) -> str:
        """What each of them said and logged."""
        return "\n\n".join(proxy.evidence() for proxy in self._started)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Two Dovecots, for all tests."""
    if reason := Dovecot.missing():
        pytest.skip(reason)
    with (
        public_folder() as north,
        public_folder() as south,
        Dovecot(north, {user: PASSWORDS[user] for user in ("joe", "max")}) as northern,
        Dovecot(south, {"ann": PASSWORDS["ann"]}) as southern,
    ):
        yield Site(northern, southern)


@pytest.fixture(scope="session")
def small_server() -> Iterator[RealServer]:
    """A real server that needs no root and takes thousands of sessions; joe lives there."""
    with RealServer("small", {"joe": PASSWORDS["joe"]}) as server:
        yield server


@pytest.fixture
def proxies(folder: Path) -> Iterator[Proxies]:
    """Starts perditions for one test."""
    with ExitStack() as stack:
        yield Proxies(folder, stack)
