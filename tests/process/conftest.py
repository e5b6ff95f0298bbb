"""Fixtures of tests with real daemons: perdition, its real server, clients, PAM and syslog."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.client_connection import PROTOCOLS, OpenClients
from tests.support.perdition import Perditions
from tests.support.processes import nothing_left_behind
from tests.support.real_server import RealServer
from tests.support.saved import saved
from tests.support.syslog import Syslog

PASSWORD = "secret-of-joe"
ACCOUNT = "perdition-test"
"""A user of this system during tests of PAM."""

NAMES = ("joe", "JOE", "joe@example.org", "JOE@Example.ORG", ACCOUNT)
"""Users of the real server: joe, joe's name with a domain or in capitals, and a system user."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(autouse=True)
def children() -> Iterator[None]:
    """Every process that a test starts has exited at its end."""
    with nothing_left_behind():
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[RealServer]:
    """A real server that has all of NAMES."""
    with RealServer("small", dict.fromkeys(NAMES, PASSWORD)) as found:
        yield found


@pytest.fixture
def perditions(server: RealServer, folder: Path, children: None) -> Iterator[Perditions]:
    """Starts perditions in front of the real server; they end with the test."""
    with ExitStack() as stack:
        yield Perditions(folder, stack, server)


@pytest.fixture
def clients() -> Iterator[OpenClients]:
    """Connections that are closed at the end of the test."""
    with closing(OpenClients(lambda _user: PASSWORD)) as found:
        yield found


PAM_SERVICE = Path("/etc/pam.d/perdition")


@pytest.fixture
def pam_service() -> Iterator[Path]:
    """PAM's configuration for perdition, for the test to write."""
    with saved(PAM_SERVICE) as service:
        yield service


@pytest.fixture
def pam_permits(pam_service: Path) -> None:
    """PAM accepts every password."""
    pam_service.write_text("auth required pam_permit.so\naccount required pam_permit.so\n")


@pytest.fixture
def syslog() -> Iterator[Syslog]:
    """A syslogd that reads what perdition logs."""
    if reason := Syslog.taken():
        pytest.skip(reason)
    with Syslog() as found:
        yield found


def fails(action: Callable[[], object]) -> bool:
    """Whether a client's action fails because the connection is closed."""
    try:
        action()
    except (AssertionError, OSError):
        return True
    return False
