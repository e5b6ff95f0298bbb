"""inetd mode: one client on standard input, from real super-servers and by hand."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.process.conftest import PASSWORD, every_protocol, needs_root
from tests.support.authority import Authority
from tests.support.family import Member, descendants
from tests.support.proxy import BIN
from tests.support.real_server import RealServer
from tests.support.saved import saved
from tests.support.session import DIALOGUES, TLS, hear_greeting
from tests.support.superserver import TCPD, ByHand, OpenBsdInetd, SuperServer, Xinetd
from tests.support.wait import DEADLINE, until
from tests.support.wire import Wire

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


class Inetd:
    """perdition as a super-server has it: what it is told, and what it logs.

    A super-server's configuration knows no quotes: the options are in a file.
    """

    def __init__(self, folder: Path, server: RealServer) -> None:
        self.folder = folder
        self._server = server
        self._log = folder / "log"

    def arguments(self, protocol: str, *lines: str) -> tuple[str | Path, ...]:
        """The command line, without -i; further lines of its configuration file."""
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
        """The first line of the log that matches."""
        found = until(
            lambda: re.search(rf"^.*{pattern}.*$", self.log(), re.MULTILINE),
            lambda: f"{pattern!r} in the log\n{self.log()}",
        )
        return found[0]

    def log(self) -> str:
        """What was logged so far."""
        return self._log.read_text() if self._log.exists() else ""

    def evidence(self) -> str:
        """The log, when something went wrong."""
        return self.log()


@pytest.fixture
def inetd(folder: Path, server: RealServer) -> Inetd:
    """perdition in inetd mode, in front of the real server."""
    return Inetd(folder, server)


def program(protocol: str) -> Path:
    """perdition, called for that protocol."""
    return BIN / f"perdition.{protocol}"


def log_in_and_out(wire: Wire, protocol: str, tls: TLS | None = None) -> None:
    """A whole session: greeting, login, a question, the farewell, the end."""
    dialogue = DIALOGUES[protocol]
    hear_greeting(wire, protocol, tls)
    for command, answer in (*dialogue.credentials("joe", PASSWORD), dialogue.question):
        wire.ask(command, answer)
    wire.send(dialogue.farewell + b"\r\n")
    wire.read_to_end()


@every_super_server
@wrapped_or_not
@every_protocol
def test_session(kind: type[SuperServer], wrapped: bool, protocol: str, inetd: Inetd) -> None:
    """Greeting to goodbye; the log has the super-server's number and the session's three lines."""
    with inetd.start(kind, protocol, wrapped) as superserver, superserver.connect() as client:
        log_in_and_out(client, protocol)

        ends = f"{client.own_address}->127.0.0.1:{superserver.port}"
        line = inetd.wait_for_log("Connect: ")
        assert line.endswith(f"Connect: {ends} inetd_pid={superserver.pid}"), line
        inetd.wait_for_log(f'Auth: {ends} .* status="ok"')
        inetd.wait_for_log(rf"Close: {ends} .* received=\d+ sent=\d+")


@every_super_server
def test_several_at_once(kind: type[SuperServer], inetd: Inetd) -> None:
    """Each client has a process of its own, which ends with it."""
    with inetd.start(kind, "imap4", False) as superserver:
        clients = [superserver.connect() for _ in range(5)]
        for client in clients:
            client.read_until(DIALOGUES["imap4"].greeting)
        assert len(children(superserver)) == len(clients), children(superserver)
        for client in clients:
            client.send(b"z LOGOUT\r\n")
            client.read_to_end()
            client.close()
        until(lambda: not children(superserver), lambda: f"no {children(superserver)}")


def children(superserver: SuperServer) -> list[Member]:
    """Whom it has started and who still lives."""
    return [member for member in descendants(superserver.pid) if member.alive()]


def test_exit_status_for_a_super_server(inetd: Inetd) -> None:
    """0 after a session."""
    with inetd.start(Xinetd, "imap4", False) as superserver:
        assert isinstance(superserver, Xinetd)
        with superserver.connect() as client:
            log_in_and_out(client, "imap4")
        [line] = until(superserver.exits, superserver.evidence)
        assert "status=0 " in line, line


@every_super_server
def test_tcpd_has_its_say(kind: type[SuperServer], inetd: Inetd) -> None:
    """A client that hosts.deny does not want never gets to perdition."""
    if not Path(TCPD).exists():
        pytest.skip("tcpd is not installed")
    with saved(HOSTS_DENY), inetd.start(kind, "imap4", wrapped=True) as superserver:
        HOSTS_DENY.write_text("perdition.imap4: 127.0.0.1\n")
        with superserver.connect() as client:
            assert client.read_to_end() == b""
        HOSTS_DENY.write_text("perdition.pop3: 127.0.0.1\n")
        with superserver.connect() as client:
            client.read_until(DIALOGUES["imap4"].greeting)
    assert inetd.log().count("Connect: ") == 1, inetd.log()


@every_super_server
def test_ipv6(kind: type[SuperServer], inetd: Inetd) -> None:
    """The log has the addresses."""
    if reason := kind.missing():
        pytest.skip(reason)
    arguments = (*inetd.arguments("imap4"), "-i")
    with (
        kind(inetd.folder, program("imap4"), arguments, address="::1") as superserver,
        superserver.connect() as client,
    ):
        log_in_and_out(client, "imap4")
        inetd.wait_for_log(rf"Connect: \[?::1\]?:\d+->\[?::1\]?:{superserver.port} inetd_pid=")


def test_ipv4_by_a_socket_for_both_families(inetd: Inetd) -> None:
    """Log readers, popmaps and hosts that are let in by their addresses know it as IPv4."""
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
def test_found_out_without_the_option(protocol: str, inetd: Inetd) -> None:
    """Standard input is a connection, and no other mode was asked for."""
    with ByHand(program(protocol), *inetd.arguments(protocol)) as served:
        log_in_and_out(served.client, protocol)
        assert served.status() == 0, inetd.log()
    assert inetd.wait_for_log("Connect: ").endswith(f" inetd_pid={os.getpid()}")


def test_pair_of_sockets(inetd: Inetd) -> None:
    """With the option any socket will do, as ssh and the like have it; it has no addresses."""
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


def test_user_and_group(inetd: Inetd) -> None:
    """The one process of a session is not root, and has no further groups."""
    with ByHand("setpriv", "--groups", "4,24", program("imap4"), *inetd.arguments("imap4")) as own:
        own.client.read_until(DIALOGUES["imap4"].greeting)
        member = Member(own.process.pid)
        until(lambda: member.title == "perdition.imap4: inetd", lambda: member.title)
        assert member.ids() == ({"65534"}, {"65534"}, []), member.ids()
        assert not descendants(own.process.pid)


def test_client_that_goes_without_a_word(inetd: Inetd) -> None:
    """The process ends, with its closing line."""
    with ByHand(program("imap4"), *inetd.arguments("imap4")) as served:
        served.client.read_until(DIALOGUES["imap4"].greeting)
        served.client.close()
        assert served.status() == 0, inetd.log()
    inetd.wait_for_log("Close: ")


def test_client_that_was_gone_before(inetd: Inetd) -> None:
    """A scanner connects and closes at once: the process ends all the same, without a fault."""
    with ByHand(program("imap4"), *inetd.arguments("imap4")) as served:
        served.client.close()
        assert served.status() == 0, inetd.log()
    inetd.wait_for_log("Close: ")
    assert "fault" not in inetd.log(), inetd.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal(number: signal.Signals, inetd: Inetd) -> None:
    """It ends the session, with its closing line."""
    with ByHand(program("imap4"), *inetd.arguments("imap4")) as served:
        client = served.client
        client.read_until(DIALOGUES["imap4"].greeting)
        for command, answer in DIALOGUES["imap4"].credentials("joe", PASSWORD):
            client.ask(command, answer)
        served.process.send_signal(number)
        client.read_to_end()
        assert served.status() == 0, inetd.log()
    inetd.wait_for_log("Close: ")


@pytest.mark.parametrize(("protocol", "use"), [("imap4s", "ssl"), ("imap4", "starttls")])
def test_tls(protocol: str, use: str, inetd: Inetd, folder: Path) -> None:
    """A key that only root can read; from the first byte, and by STARTTLS."""
    authority = Authority(folder)
    certificate, key = authority.issue()
    assert key.stat().st_mode & 0o077 == 0
    mode = {"ssl": "ssl_listen", "starttls": "tls_listen"}[use]
    arguments = inetd.arguments(
        protocol, f"ssl_mode {mode}", f"ssl_cert_file {certificate}", f"ssl_key_file {key}"
    )
    with ByHand(program(protocol), *arguments) as served:
        log_in_and_out(served.client, "imap4", TLS(use, authority.trusted()))
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
def test_client_hears_nothing_of_a_mistake(
    line: str, option: tuple[str, ...], inetd: Inetd
) -> None:
    """Standard output and error are the client: it sees the connection's end and no more."""
    with ByHand(program("imap4"), *inetd.arguments("imap4", line), *option) as served:
        assert served.client.read_to_end() == b""
        assert served.status() > 0


def test_client_hears_nothing_of_a_bad_command_line(inetd: Inetd) -> None:
    """The same where the options themselves are wrong."""
    with ByHand(program("imap4"), "--no_such_option", "-i") as served:
        assert served.client.read_to_end() == b""
        assert served.status() > 0


def test_mistake_is_logged(inetd: Inetd) -> None:
    """The operator finds it in the log that the options name."""
    arguments = inetd.arguments("imap4", "username no-such-user-here")
    with ByHand(program("imap4"), *arguments, "-i") as served:
        assert served.status() > 0
    assert "no-such-user-here" in inetd.wait_for_log("username ")


def test_no_client(inetd: Inetd) -> None:
    """-i from a terminal or a script: refused in one line."""
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


def test_clients_to_be_accepted(inetd: Inetd) -> None:
    """A super-server that is told to wait would start one perdition after the other."""
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
