"""The protocol between perdition and a service manager: LISTEN_FDS and NOTIFY_SOCKET."""

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
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        path.chmod(0o666)
        self._sock.settimeout(DEADLINE)

    def wait_for(self, assignment: str) -> list[str]:
        """Wait for a message that has the assignment; returns all its assignments."""
        lines: list[str] = []
        while assignment not in lines:
            lines = self._sock.recv(4096).decode().splitlines()
        return lines

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def notify_socket(folder: Path) -> Iterator[NotifySocket]:
    with closing(NotifySocket(folder / "notify")) as found:
        yield found


def listening_socket() -> socket.socket:
    """A socket as a service manager opens it."""
    return socket.create_server(("127.0.0.1", 0))


def passing_descriptors(descriptors: list[int]) -> list[str]:
    """The beginning of a command that is passed descriptors."""
    return ["bash", "-c", PASS_ON, "pass_on", " ".join(map(str, descriptors))]


def with_sockets(proxy: PerditionProcess, *sockets: socket.socket) -> PerditionProcess:
    """The same perdition, with sockets passed to it."""
    free = [os.dup2(sock.fileno(), 100 + number) for number, sock in enumerate(sockets)]
    proxy.command[:0] = passing_descriptors(free)
    proxy.descriptors = free
    return proxy


def test_passed_sockets_are_used(perditions: Perditions, clients: OpenClients) -> None:
    """They replace those that the options configure."""
    with listening_socket() as one, listening_socket() as two:
        proxy = with_sockets(perditions.new("imap4", *FEW), one, two)
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
    """A successor without passed sockets listens to the predecessor's and to no other.

    As systemd's, they are for both families: no other socket could listen to the port of one.
    """
    pid_file = folder / "perdition.pid"
    passed_one = socket.create_server(
        ("::", 0), family=socket.AF_INET6, dualstack_ipv6=socket.has_dualstack_ipv6()
    )
    with passed_one:
        port = passed_one.getsockname()[1]
        first = with_sockets(perditions.new("imap4", *FEW, "--pid_file", pid_file), passed_one)
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
def test_other_passed_descriptors_are_refused(kind: str, perditions: Perditions) -> None:
    """perdition says what is wrong, and does not start."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, listening_socket() as server:
        connected = socket.create_connection(server.getsockname())
        with connected, Path("/dev/null").open() as file:
            all_of_them = {"datagram": datagram.fileno(), "connected": connected.fileno()}
            number = os.dup2((all_of_them | {"file": file.fileno()})[kind], 100)
            command = [*passing_descriptors([number]), *perditions.new("imap4", *FEW).command]
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


@pytest.mark.slow
def test_start_reload_and_end_are_notified(
    perditions: Perditions,
    clients: OpenClients,
    notify_socket: NotifySocket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ready once clients are served, also after a reload; the number of sessions; the end."""
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


def test_new_master_is_notified(
    perditions: Perditions, notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a takeover another process is the service; the old one does not notify its end."""
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


def test_unreachable_service_manager_is_ignored(
    perditions: Perditions, clients: OpenClients, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """perdition serves all the same."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "nobody"))
    proxy = perditions.start("imap4", *FEW)

    clients.log_in(proxy).use()
