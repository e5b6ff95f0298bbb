"""inetd mode: one client on standard input, started by real super-servers and by a test."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.process.conftest import PASSWORD, every_protocol, needs_root
from tests.support.authority import Authority
from tests.support.client_connection import PROTOCOLS, ClientTLS, RawConnection, read_greeting
from tests.support.folders import BIN
from tests.support.processes import ProcessInfo, descendants
from tests.support.real_server import RealServer
from tests.support.saved import saved
from tests.support.superserver import TCPD, OpenBsdInetd, ProgramOnSocket, SuperServer, Xinetd
from tests.support.wait import DEADLINE, until

pytestmark = needs_root

HOSTS_DENY = Path("/etc/hosts.deny")
SUPER_SERVERS = (OpenBsdInetd, Xinetd)

every_super_server = pytest.mark.parametrize("kind", SUPER_SERVERS)
wrapped_or_not = pytest.mark.parametrize(
    "wrapped",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not Path(TCPD).exists(), reason="tcpd is not installed")
        ),
    ],
    ids=["direct", "tcpd"],
)


class InetdPerdition:
    """perdition as a super-server starts it: its options and its log.

    The options are in a file, as a super-server's configuration has no quotes.
    """

    def __init__(self, folder: Path, server: RealServer) -> None:
        self.folder = folder
        self._server = server
        self._log = folder / "log"

    def arguments(self, protocol: str, *lines: str) -> tuple[str | Path, ...]:
        """The command line without -i; *lines* are further lines of the configuration file."""
        configuration = self.folder / f"{protocol}.conf"
        own = (
            "map_library ''",
            f"outgoing_server {self._server.server(protocol.removesuffix('s'))}",
            f"log_facility {self._log}",
        )
        configuration.write_text("".join(f"{line}\n" for line in (*own, *lines)))
        return "-f", configuration

    def start(self, kind: type[SuperServer], protocol: str, wrapped: bool) -> SuperServer:
        """A super-server for one protocol."""
        if reason := kind.missing():
            pytest.skip(reason)
        arguments = (*self.arguments(protocol), "-i")
        return kind(self.folder, program(protocol), arguments, wrapped=wrapped)

    def wait_for_log(self, pattern: str) -> str:
        """Wait for a log line that matches; returns the first."""
        found = until(
            lambda: re.search(rf"^.*{pattern}.*$", self.log(), re.MULTILINE),
            lambda: f"{pattern!r} in the log\n{self.log()}",
        )
        return found[0]

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def evidence(self) -> str:
        return self.log()


@pytest.fixture
def inetd(folder: Path, server: RealServer) -> InetdPerdition:
    """perdition in inetd mode, in front of the real server."""
    return InetdPerdition(folder, server)


def program(protocol: str) -> Path:
    return BIN / f"perdition.{protocol}"


def log_in_and_out(connection: RawConnection, protocol: str, tls: ClientTLS | None = None) -> None:
    """A whole session from the greeting to the end."""
    commands = PROTOCOLS[protocol]
    read_greeting(connection, protocol, tls)
    for command, answer in (*commands.credentials("joe", PASSWORD), commands.noop):
        connection.ask(command, answer)
    connection.send(commands.logout + b"\r\n")
    connection.read_to_end()


@every_super_server
@wrapped_or_not
@every_protocol
def test_session_is_served_from_greeting_to_end(
    kind: type[SuperServer], wrapped: bool, protocol: str, inetd: InetdPerdition
) -> None:
    """From greeting to logout; the log has the client's three lines, by the super-server's port."""
    with inetd.start(kind, protocol, wrapped) as superserver, superserver.connect() as client:
        log_in_and_out(client, protocol)

        ends = f"{client.own_address}->127.0.0.1:{superserver.port}"
        line = inetd.wait_for_log("Connect: ")
        assert line.endswith(f"Connect: {ends} inetd_pid={superserver.pid}"), line
        inetd.wait_for_log(f'Auth: {ends} .* status="ok"')
        inetd.wait_for_log(rf"Close: {ends} .* received=\d+ sent=\d+")


@every_super_server
def test_several_clients_are_served_at_once(kind: type[SuperServer], inetd: InetdPerdition) -> None:
    """Each client has a process of its own, which exits with it."""
    with inetd.start(kind, "imap4", False) as superserver:
        clients = [superserver.connect() for _ in range(5)]
        for client in clients:
            client.read_until(PROTOCOLS["imap4"].greeting)
        assert len(children(superserver)) == len(clients), children(superserver)
        for client in clients:
            client.send(b"z LOGOUT\r\n")
            client.read_to_end()
            client.close()
        until(lambda: not children(superserver), lambda: f"no {children(superserver)}")


def children(superserver: SuperServer) -> list[ProcessInfo]:
    """The processes that a super-server has started and that still run."""
    return [process for process in descendants(superserver.pid) if process.is_alive()]


def test_exit_status_for_a_super_server(inetd: InetdPerdition) -> None:
    """0 after a session."""
    with inetd.start(Xinetd, "imap4", False) as superserver:
        assert isinstance(superserver, Xinetd)
        with superserver.connect() as client:
            log_in_and_out(client, "imap4")
        [line] = until(superserver.exits, superserver.evidence)
        assert "status=0 " in line, line


@every_super_server
@pytest.mark.slow
def test_tcpd_denies_a_client(kind: type[SuperServer], inetd: InetdPerdition) -> None:
    """A client that hosts.deny lists does not reach perdition."""
    if not Path(TCPD).exists():
        pytest.skip("tcpd is not installed")
    with saved(HOSTS_DENY), inetd.start(kind, "imap4", wrapped=True) as superserver:
        HOSTS_DENY.write_text("perdition.imap4: 127.0.0.1\n")
        with superserver.connect() as client:
            assert client.read_to_end() == b""
        HOSTS_DENY.write_text("perdition.pop3: 127.0.0.1\n")
        with superserver.connect() as client:
            client.read_until(PROTOCOLS["imap4"].greeting)
    assert inetd.log().count("Connect: ") == 1, inetd.log()


@every_super_server
def test_client_can_use_ipv6(kind: type[SuperServer], inetd: InetdPerdition) -> None:
    """The log has the IPv6 addresses."""
    if reason := kind.missing():
        pytest.skip(reason)
    arguments = (*inetd.arguments("imap4"), "-i")
    with (
        kind(inetd.folder, program("imap4"), arguments, address="::1") as superserver,
        superserver.connect() as client,
    ):
        log_in_and_out(client, "imap4")
        inetd.wait_for_log(rf"Connect: \[?::1\]?:\d+->\[?::1\]?:{superserver.port} inetd_pid=")


def test_mapped_ipv4_address_is_shown_as_ipv4(inetd: InetdPerdition) -> None:
    """Logs, popmaps and access rules have the IPv4 address, without ::ffff:."""
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as client,
    ):
        ours, _ = listener.accept()
        with ours:
            command = [*map(str, (program("imap4"), *inetd.arguments("imap4"))), "-i"]
            end = ours.fileno()
            process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end)
        with process:
            client.sendall(b"z LOGOUT\r\n")
    inetd.wait_for_log(r"Connect: 127\.0\.0\.1:\d+->127\.0\.0\.1:\d+ inetd_pid=")


@every_protocol
def test_inetd_mode_is_detected_without_the_option(protocol: str, inetd: InetdPerdition) -> None:
    """Standard input is a connection, and no other mode is configured."""
    with ProgramOnSocket(program(protocol), *inetd.arguments(protocol)) as served:
        log_in_and_out(served.client, protocol)
        assert served.status() == 0, inetd.log()
    assert inetd.wait_for_log("Connect: ").endswith(f" inetd_pid={os.getpid()}")


def test_socket_without_addresses_is_served(inetd: InetdPerdition) -> None:
    """With the option any socket will do, as from ssh; it has no addresses."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [*map(str, (program("imap4"), *inetd.arguments("imap4"))), "-i"]
        end = theirs.fileno()
        process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end)
    with ours, process, ours.makefile("rwb") as client:
        assert client.readline().startswith(b"* OK"), inetd.log()
        client.write(b"a LOGIN joe %s\r\nz LOGOUT\r\n" % PASSWORD.encode())
        client.flush()
        answers = client.read()
    assert b"a OK" in answers, answers
    assert process.returncode == 0, inetd.log()


def test_process_runs_as_user_and_group(inetd: InetdPerdition) -> None:
    """The process of a session is not root, and has no further groups."""
    with ProgramOnSocket(
        "setpriv", "--groups", "4,24", program("imap4"), *inetd.arguments("imap4")
    ) as own:
        own.client.read_until(PROTOCOLS["imap4"].greeting)
        process = ProcessInfo(own.process.pid)
        until(lambda: process.title == "perdition.imap4: inetd", lambda: process.title)
        assert process.ids() == ({"65534"}, {"65534"}, []), process.ids()
        assert not descendants(own.process.pid)


def test_process_exits_when_the_client_disconnects(inetd: InetdPerdition) -> None:
    with ProgramOnSocket(program("imap4"), *inetd.arguments("imap4")) as served:
        served.client.read_until(PROTOCOLS["imap4"].greeting)
        served.client.close()
        assert served.status() == 0, inetd.log()
    inetd.wait_for_log("Close: ")


def test_client_that_disconnects_at_once_is_no_error(inetd: InetdPerdition) -> None:
    """As a port scanner does: the process exits without an error."""
    with ProgramOnSocket(program("imap4"), *inetd.arguments("imap4")) as served:
        served.client.close()
        assert served.status() == 0, inetd.log()
    inetd.wait_for_log("Close: ")
    assert "fault" not in inetd.log(), inetd.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_session(number: signal.Signals, inetd: InetdPerdition) -> None:
    """It ends the session, with its Close line."""
    with ProgramOnSocket(program("imap4"), *inetd.arguments("imap4")) as served:
        client = served.client
        client.read_until(PROTOCOLS["imap4"].greeting)
        for command, answer in PROTOCOLS["imap4"].credentials("joe", PASSWORD):
            client.ask(command, answer)
        served.process.send_signal(number)
        client.read_to_end()
        assert served.status() == 0, inetd.log()
    inetd.wait_for_log("Close: ")


@pytest.mark.parametrize(("protocol", "use"), [("imap4s", "ssl"), ("imap4", "starttls")])
def test_client_can_use_tls(protocol: str, use: str, inetd: InetdPerdition, folder: Path) -> None:
    """With a key that only root can read, from the first byte and by STARTTLS."""
    authority = Authority(folder)
    certificate, key = authority.issue()
    assert key.stat().st_mode & 0o077 == 0
    mode = {"ssl": "ssl_listen", "starttls": "tls_listen"}[use]
    arguments = inetd.arguments(
        protocol, f"ssl_mode {mode}", f"ssl_cert_file {certificate}", f"ssl_key_file {key}"
    )
    with ProgramOnSocket(program(protocol), *arguments) as served:
        log_in_and_out(served.client, "imap4", ClientTLS(use, authority.trusted()))
        assert served.status() == 0, inetd.log()
    inetd.wait_for_log(f'Auth: .* client-secure={use} .* status="ok"')


@pytest.mark.parametrize(
    "line",
    [
        "no_such_option 1",
        "timeout soon",
        "ok_line 'open",
        "username no-such-user-here",
        "map_library no-such-kind",
        "ssl_mode ssl_listen\nssl_cert_file /no/such/file",
        "log_facility mails",
    ],
)
@pytest.mark.parametrize("option", [(), ("-i",)], ids=["found out", "-i"])
def test_client_gets_no_error_message(
    line: str, option: tuple[str, ...], inetd: InetdPerdition
) -> None:
    """Standard output and error are the client, which only sees the connection closed."""
    with ProgramOnSocket(program("imap4"), *inetd.arguments("imap4", line), *option) as served:
        assert served.client.read_to_end() == b""
        assert served.status() > 0


def test_client_gets_no_message_of_a_bad_command_line(inetd: InetdPerdition) -> None:
    with ProgramOnSocket(program("imap4"), "--no_such_option", "-i") as served:
        assert served.client.read_to_end() == b""
        assert served.status() > 0


def test_mistake_is_logged(inetd: InetdPerdition) -> None:
    """In the log that the options name."""
    arguments = inetd.arguments("imap4", "username no-such-user-here")
    with ProgramOnSocket(program("imap4"), *arguments, "-i") as served:
        assert served.status() > 0
    assert "no-such-user-here" in inetd.wait_for_log("username ")


def test_standard_input_must_be_a_connection(inetd: InetdPerdition) -> None:
    """-i from a terminal or a script is refused in one line."""
    told = subprocess.run(
        [program("imap4"), *inetd.arguments("imap4"), "-i"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert told.returncode > 0
    assert told.stdout == ""
    [line] = told.stderr.splitlines()
    assert "inetd_mode" in line, line
    assert "inetd_mode" in inetd.log()


def test_listening_socket_is_refused(inetd: InetdPerdition) -> None:
    """A super-server with `wait` would start one perdition after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        status = subprocess.run(
            [program("imap4"), *inetd.arguments("imap4")],
            stdin=listener.fileno(),
            stdout=listener.fileno(),
            stderr=listener.fileno(),
            timeout=DEADLINE,
            check=False,
        ).returncode

    assert status == os.EX_USAGE
    assert "wait = no" in inetd.log()
