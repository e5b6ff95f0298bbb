"""What perdition and a service manager such as systemd say to each other."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.process.conftest import needs_root
from tests.support.client_connection import OpenClients, connect_and_read_greeting
from tests.support.perdition import PerditionProcess, Perditions
from tests.support.processes import ProcessInfo, refuses_connections
from tests.support.wait import DEADLINE, until

pytestmark = needs_root

FEW = ("--workers", "2")
PASS_ON = """
count=0
for fd in $1; do eval "exec $((3 + count))<&$fd"; count=$((count + 1)); done
shift
exec env -i LISTEN_PID=$$ LISTEN_FDS=$count PATH="$PATH" "$@"
"""
"""Becomes a command that is passed the descriptors in the first argument, as systemd would."""


class NotifySocket:
    """Hears what services have to tell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        path.chmod(0o666)
        self._sock.settimeout(DEADLINE)

    def wait_for(self, assignment: str) -> list[str]:
        """Wait for a message with that in it; gives all of the message."""
        lines: list[str] = []
        while assignment not in lines:
            lines = self._sock.recv(4096).decode().splitlines()
        return lines

    def close(self) -> None:
        """Hear no more."""
        self._sock.close()


@pytest.fixture
def notify_socket(folder: Path) -> Iterator[NotifySocket]:
    """A service notify_socket."""
    with closing(NotifySocket(folder / "notify")) as found:
        yield found


def listening() -> socket.socket:
    """A socket that a service manager has opened."""
    return socket.create_server(("127.0.0.1", 0))


def pass_on(descriptors: list[int]) -> list[str]:
    """The words in front of a command that is passed descriptors."""
    return ["bash", "-c", PASS_ON, "pass_on", " ".join(map(str, descriptors))]


def passed(proxy: PerditionProcess, *sockets: socket.socket) -> PerditionProcess:
    """The same, with sockets passed to it."""
    free = [os.dup2(sock.fileno(), 100 + number) for number, sock in enumerate(sockets)]
    proxy.command[:0] = pass_on(free)
    proxy.descriptors = free
    return proxy


def test_sockets_that_are_passed(perditions: Perditions, clients: OpenClients) -> None:
    """They are served, in the place of those that the options would have it listen to."""
    with listening() as one, listening() as two:
        proxy = passed(perditions.new("imap4", *FEW), one, two)
        proxy.address = one.getsockname()
        proxy.port = one.getsockname()[1]
        perditions.enter(proxy)

        for sock in (one, two):
            with connect_and_read_greeting(sock.getsockname(), "imap4"):
                pass
        clients.log_in(proxy).use()
        assert ProcessInfo(proxy.pid).title == "perdition.imap4: master", "init scripts go by that"
        position = proxy.command.index("-l")
        assert refuses_connections(("127.0.0.1", int(proxy.command[position + 1])))


def test_passed_sockets_stay_at_a_takeover(
    perditions: Perditions, clients: OpenClients, folder: Path
) -> None:
    """The successor, who is passed none, listens to them as well, and to nothing else.

    systemd's are of both families: nobody else could listen to the same port of one.
    """
    pid_file = folder / "perdition.pid"
    passed_one = socket.create_server(
        ("::", 0), family=socket.AF_INET6, dualstack_ipv6=socket.has_dualstack_ipv6()
    )
    with passed_one:
        port = passed_one.getsockname()[1]
        first = passed(perditions.new("imap4", *FEW, "--pid_file", pid_file), passed_one)
        first.port, first.address = port, ("127.0.0.1", port)
        perditions.enter(first)
    until(pid_file.exists, first.evidence)  # the port listened before
    options = (*FEW, "-b", "", "-l", str(port))  # the same port, as a unit's and the service's are
    for _ in range(2):
        second = perditions.new_daemon("imap4", *options, "--takeover", pid_file=pid_file)
        second.port, second.address = first.port, first.address
        perditions.enter(second)

    clients.log_in(second).use()
    with connect_and_read_greeting(("::1", port), "imap4"):
        pass


@pytest.mark.parametrize("kind", ["datagram", "connected", "file"])
def test_what_is_no_listening_socket(kind: str, perditions: Perditions) -> None:
    """Perdition says what is wrong with it, and does not start."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, listening() as server:
        connected = socket.create_connection(server.getsockname())
        with connected, Path("/dev/null").open() as file:
            all_of_them = {"datagram": datagram.fileno(), "connected": connected.fileno()}
            number = os.dup2((all_of_them | {"file": file.fileno()})[kind], 100)
            command = [*pass_on([number]), *perditions.new("imap4", *FEW).command]
            done = subprocess.run(
                command,
                pass_fds=[number],
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE,
            )
    assert done.returncode == os.EX_USAGE
    assert "LISTEN_FDS: descriptor 3" in done.stderr


def test_is_told_of_start_reload_and_end(
    perditions: Perditions,
    clients: OpenClients,
    notify_socket: NotifySocket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ready when clients are served, also after a reload; the sessions there are; the end."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(notify_socket.path))
    proxy = perditions.start("imap4", *FEW)

    assert f"MAINPID={proxy.pid}" in notify_socket.wait_for("READY=1")
    clients.log_in(proxy)
    notify_socket.wait_for("STATUS=1 session")
    os.kill(proxy.pid, signal.SIGHUP)
    reloading = notify_socket.wait_for("RELOADING=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in reloading)
    notify_socket.wait_for("READY=1")
    proxy.terminate()
    notify_socket.wait_for("STOPPING=1")


def test_is_told_of_a_new_master(
    perditions: Perditions, notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a takeover another process is the service; the old one says nothing of its end."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(notify_socket.path))
    first = perditions.start_daemon("imap4", *FEW)
    notify_socket.wait_for("READY=1")
    second = perditions.new_daemon(
        "imap4", *FEW, "-l", str(first.port), "--takeover", pid_file=first.pid_file
    )
    second.port, second.address = first.port, first.address
    perditions.enter(second)

    assert f"MAINPID={second.pid}" in notify_socket.wait_for("READY=1")
    assert first.wait() == 0
    second.terminate()
    notify_socket.wait_for("STOPPING=1")
    until(lambda: not second.processes(), second.evidence)


def test_manager_that_does_not_listen(
    perditions: Perditions, clients: OpenClients, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perdition serves all the same."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "nobody"))
    proxy = perditions.start("imap4", *FEW)

    clients.log_in(proxy).use()
