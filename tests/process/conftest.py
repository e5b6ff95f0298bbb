"""What tests of real daemons share: root, real servers, perditions of all kinds, and order."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.daemon import Daemon
from tests.support.family import nothing_left_behind
from tests.support.proxy import Proxy
from tests.support.real_server import RealServer
from tests.support.saved import saved
from tests.support.session import DIALOGUES, Session
from tests.support.syslog import Syslog
from tests.support.wait import DEADLINE
from tests.support.wire import Wire

PASSWORD = "secret-of-joe"
ACCOUNT = "perdition-test"
"""A user of this system, while tests of PAM run."""

NAMES = ("joe", "JOE", "joe@example.org", "JOE@Example.ORG", ACCOUNT)
"""Users of the real server: joe, and everybody whom a domain or capitals disguise."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")
every_protocol = pytest.mark.parametrize("protocol", DIALOGUES)


@pytest.fixture(autouse=True)
def family() -> Iterator[None]:
    """Whatever a test starts is gone after it."""
    with nothing_left_behind():
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[RealServer]:
    """A real server, where all of them live."""
    with RealServer("small", dict.fromkeys(NAMES, PASSWORD)) as found:
        yield found


AnyProxy = TypeVar("AnyProxy", bound=Proxy)


class Started:
    """The perditions that a test starts, all in front of one real server; they end with it.

    `before` are words in front of the command, such as `prlimit`.
    """

    def __init__(self, server: RealServer, folder: Path, stack: ExitStack) -> None:
        self._server = server
        self._folder = folder
        self._stack = stack
        self._all: list[Proxy] = []

    def target(self, protocol: str) -> tuple[str, ...]:
        """The options that lead everybody to the real server."""
        return ("-M", "", "-s", self._server.server(protocol))

    def daemon(self, protocol: str, *options: str | Path, pid_file: Path | None = None) -> Daemon:
        """One that has detached and listens."""
        return self._stack.enter_context(self.prepared(protocol, *options, pid_file=pid_file))

    def enter(self, proxy: AnyProxy) -> AnyProxy:
        """One that was prepared, started."""
        self._stack.enter_context(proxy)
        return proxy

    def prepared(self, protocol: str, *options: str | Path, pid_file: Path | None = None) -> Daemon:
        """One that the test itself has to launch, or to enter."""
        target = self.target(protocol)
        daemon = Daemon(protocol, self._folder, *target, *options, pid_file=pid_file)
        self._all.append(daemon)
        return daemon

    def foreground(
        self, protocol: str, *options: str | Path, before: tuple[str, ...] = ()
    ) -> Proxy:
        """One that listens and does not detach."""
        proxy = self.unstarted(protocol, *options)
        proxy.command[:0] = before
        return self.enter(proxy)

    def unstarted(self, protocol: str, *options: str | Path) -> Proxy:
        """One for the foreground that the test itself has to enter."""
        proxy = Proxy(protocol, self._folder, *self.target(protocol), *options)
        self._all.append(proxy)
        return proxy

    def evidence(self) -> str:
        """What each of them said and logged."""
        return "\n\n".join(proxy.evidence() for proxy in self._all)

    def forget(self) -> None:
        """Their files are about to go: there is no evidence any more."""
        self._all.clear()


@pytest.fixture
def started(server: RealServer, folder: Path, family: None) -> Iterator[Started]:
    """Starts perditions for one test."""
    with ExitStack() as stack:
        found = Started(server, folder, stack)
        yield found
    found.forget()


class Visitor(Wire):
    """A connection that may be closed on it at once, or hear nothing for now."""

    def first_words(self) -> bytes:
        """A line, or nothing if there is none before the end."""
        while b"\n" not in self._buffer and self._receive():
            pass
        return self._take(len(self._buffer))

    def has_heard(self) -> bool:
        """Whether anything has arrived."""
        return self._unread() > 0


class Clients:
    """The connections that a test holds open; they are closed with it."""

    def __init__(self) -> None:
        self._open: list[Wire] = []

    def log_in(self, proxy: Proxy, user: str = "joe") -> Session:
        """A session of that user."""
        session = Session(proxy.address, proxy.protocol, user, PASSWORD)
        self._open.append(session)
        return session

    def connect(self, proxy: Proxy, *, resets: bool = False) -> Visitor:
        """A connection on which nothing was said or heard; perhaps one that a reset will end."""
        sock = socket.create_connection(proxy.address, DEADLINE)
        if resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire = Visitor(sock)
        self._open.append(wire)
        return wire

    def close(self) -> None:
        """Close them all; some have been closed already."""
        for wire in self._open:
            wire.close()


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Whoever connects during one test."""
    with closing(Clients()) as all_of_them:
        yield all_of_them


PAM_SERVICE = Path("/etc/pam.d/perdition")


@pytest.fixture
def pam_service() -> Iterator[Path]:
    """What PAM does for perdition: the test's to write."""
    with saved(PAM_SERVICE) as service:
        yield service


@pytest.fixture
def pam_permits(pam_service: Path) -> None:
    """PAM takes every password."""
    pam_service.write_text("auth required pam_permit.so\naccount required pam_permit.so\n")


@pytest.fixture
def syslog() -> Iterator[Syslog]:
    """A syslogd that reads what perdition logs."""
    if reason := Syslog.taken():
        pytest.skip(reason)
    with Syslog() as found:
        yield found


def fails(action: Callable[[], object]) -> bool:
    """Whether a client's action ends in a closed connection."""
    try:
        action()
    except (AssertionError, OSError):
        return True
    return False


def refused(address: tuple[str, int]) -> bool:
    """Whether nobody listens there any more."""
    with socket.socket() as sock:
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            return True
    return False
