"""Sessions from the first byte to the Close line: what is relayed, and what is logged."""

import base64
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.client_connection import PROTOCOLS, LoggedInClient, OpenClients, RawConnection
from tests.support.perdition import PerditionProcess, Perditions
from tests.support.real_server import RealServer
from tests.support.wait import until
from tests.system.conftest import PASSWORDS, TwoServers

MANY = 1000
BIG = 100 << 20

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def in_front_of(
    server: RealServer,
    protocol: str,
    perditions: Perditions,
    *options: str,
    pid_file: Path | None = None,
) -> PerditionProcess:
    """A perdition without a popmap in front of one server."""
    target = ("-M", "", "-s", server.server(protocol))
    return perditions.start(protocol, *target, *options, pid_file=pid_file)


def expect_close(proxy: PerditionProcess, connection: RawConnection, user: str = "joe") -> None:
    """The Close line has the bytes that this client sent and received since its login."""
    [line] = proxy.wait_for_log(f"Close: {connection.own_address}->")
    close = (
        f"Close: {connection.own_address}->127.0.0.1:{proxy.port} "
        f'authorisation_id=NONE authentication_id="{user}" '
        f"received={connection.sent} sent={connection.received}"
    )
    assert line.endswith(close), f"{line!r} does not end in {close!r}"


@every_protocol
def test_session_has_three_log_lines(
    protocol: str, servers: TwoServers, perditions: Perditions, folder: Path, clients: OpenClients
) -> None:
    """Connect, Auth and Close, character by character and in this order."""
    proxy = perditions.start(protocol, "-M", "gdbm", "-m", servers.popmap(folder, protocol))

    client = clients.log_in(proxy, "ann")
    client.use()
    client.log_out()

    expect_close(proxy, client, "ann")
    from_to = f"{client.own_address}->127.0.0.1:{proxy.port}"
    connect, auth, _ = proxy.logged(f": {client.own_address}->")
    assert connect.endswith(f"Connect: {from_to}")
    assert auth.endswith(
        f"Auth: {from_to} client-secure=plaintext "
        f'authorisation_id=NONE authentication_id="ann" server="{servers.south.server(protocol)}" '
        f'protocol={protocol.upper()} server-secure=plaintext status="ok"'
    )


@pytest.fixture(scope="module")
def big_message() -> bytes:
    """A message of 100 MiB; every 1,000th line begins with a dot, which POP3 doubles."""
    random_bytes = random.Random(1).randbytes(BIG * 57 // 78)
    lines = base64.encodebytes(random_bytes).splitlines()
    lines[::1000] = [b"." + line[1:] for line in lines[::1000]]
    message = b"Subject: big\r\n\r\n" + b"\r\n".join(lines)
    return message[: BIG - 2].ljust(BIG - 2, b"x") + b"\r\n"


@pytest.fixture(scope="module")
def with_big_message(servers: TwoServers, big_message: bytes) -> TwoServers:
    """The servers; max has the big message."""
    servers.north.deliver("max", big_message)
    return servers


@pytest.mark.slow
def test_big_message_arrives_over_imap4(
    with_big_message: TwoServers,
    big_message: bytes,
    perditions: Perditions,
    folder: Path,
    clients: OpenClients,
) -> None:
    """FETCH and APPEND, complete and counted."""
    proxy = perditions.start("imap4", "-M", "gdbm", "-m", with_big_message.popmap(folder, "imap4"))
    client = clients.log_in(proxy, "max")

    client.ask(b"c SELECT INBOX", rb"c OK.*\r\n")
    client.ask(b"d FETCH 1 BODY.PEEK[]", rb"\{%d\}\r\n" % BIG)
    assert client.read_exactly(BIG) == big_message
    client.read_until(rb"d OK.*\r\n")

    client.send(b"e APPEND INBOX {%d+}\r\n%s" % (BIG, big_message))
    client.ask(b"", rb"e OK.*\r\n")
    client.ask(b"f FETCH 2 RFC822.SIZE", rb"RFC822.SIZE %d\)\r\n(?s:.*)f OK.*\r\n" % BIG)
    client.ask(b"g STORE 2 FLAGS (\\Deleted)", rb"g OK.*\r\n")
    client.ask(b"h EXPUNGE", rb"h OK.*\r\n")

    client.log_out()
    expect_close(proxy, client, "max")


@pytest.mark.slow
def test_big_message_arrives_over_pop3(
    with_big_message: TwoServers,
    big_message: bytes,
    perditions: Perditions,
    folder: Path,
    clients: OpenClients,
) -> None:
    """RETR, complete and counted."""
    proxy = perditions.start("pop3", "-M", "gdbm", "-m", with_big_message.popmap(folder, "pop3"))
    client = clients.log_in(proxy, "max")

    client.ask(b"RETR 1", rb"\+OK.*\r\n")
    stuffed = big_message.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    assert client.read_exactly(len(stuffed)) == stuffed

    client.log_out()
    expect_close(proxy, client, "max")


@pytest.mark.slow
def test_big_script_arrives_over_managesieve(
    servers: TwoServers,
    big_message: bytes,
    perditions: Perditions,
    folder: Path,
    clients: OpenClients,
) -> None:
    """PUTSCRIPT and GETSCRIPT, complete and counted."""
    proxy = perditions.start(
        "managesieve", "-M", "gdbm", "-m", servers.popmap(folder, "managesieve")
    )
    client = clients.log_in(proxy, "max")
    script = b"/*" + big_message + b"*/ keep;\r\n"

    client.send(b'PUTSCRIPT "big" {%d+}\r\n%s' % (len(script), script))
    client.ask(b"", rb"OK.*\r\n")
    client.ask(b'GETSCRIPT "big"', rb"\{%d\}\r\n" % len(script))
    assert client.read_exactly(len(script)) == script
    client.read_until(rb"OK.*\r\n")
    client.ask(b'DELETESCRIPT "big"', rb"OK.*\r\n")

    client.log_out()
    expect_close(proxy, client, "max")


@pytest.mark.slow
def test_one_worker_serves_many_sessions(
    small_server: RealServer, perditions: Perditions, many_files: None, clients: OpenClients
) -> None:
    """A thousand at once: each is counted, usable and logged."""
    proxy = in_front_of(small_server, "imap4", perditions, "--workers", "1")

    sessions = [clients.log_in(proxy) for _ in range(MANY)]
    proxy.expect_sessions(MANY)
    for each in sessions:
        each.use()
    for each in sessions:
        each.log_out()

    proxy.wait_for_log("Close: ", count=MANY)
    for each in sessions:
        expect_close(proxy, each)
    proxy.expect_sessions(0)


def test_killed_worker_ends_only_its_own_sessions(
    small_server: RealServer, perditions: Perditions, clients: OpenClients
) -> None:
    """kill -9 of one of two workers: the other's sessions go on, and a new worker starts."""
    proxy = in_front_of(small_server, "imap4", perditions, "--workers", "2")
    sessions = sessions_on_both_workers(proxy, clients)
    counts = proxy.session_counts()
    victim, survivor = counts

    os.kill(victim, signal.SIGKILL)
    until(
        lambda: len(proxy.workers()) == 2 and victim not in proxy.session_counts(),
        lambda: f"a worker instead of {victim}\n{proxy.evidence()}",
        deadline=1,
    )

    alive = [each for each in sessions if still_usable(each)]
    assert len(alive) == counts[survivor]
    for each in alive:
        each.log_out()
        expect_close(proxy, each)
    clients.log_in(proxy).log_out()


def test_first_killed_worker_is_replaced_at_once(
    small_server: RealServer, perditions: Perditions, clients: OpenClients
) -> None:
    """Within a second: only repeated deaths delay a restart."""
    proxy = in_front_of(small_server, "imap4", perditions, "--workers", "1")
    clients.log_in(proxy).use()
    [victim] = proxy.workers()

    killed = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    clients.log_in(proxy).use()

    took = time.monotonic() - killed
    assert took < 1, f"it took {took:.3f} s"


def sessions_on_both_workers(proxy: PerditionProcess, clients: OpenClients) -> list[LoggedInClient]:
    """Log in until both workers have sessions."""
    sessions: list[LoggedInClient] = []
    while len(sessions) < 200:
        sessions += [clients.log_in(proxy) for _ in range(10)]
        if all(proxy.expect_sessions(len(sessions)).values()):
            return sessions
    raise AssertionError(f"one worker takes no sessions\n{proxy.evidence()}")


def still_usable(client: LoggedInClient) -> bool:
    """Whether the session answers; if not, it has been closed."""
    try:
        client.use()
    except (AssertionError, ConnectionError):
        return False
    return True


@every_protocol
def test_sigterm_ends_open_sessions(
    protocol: str,
    small_server: RealServer,
    perditions: Perditions,
    folder: Path,
    clients: OpenClients,
) -> None:
    """Connections are closed, Close lines are logged, and the pid file is removed."""
    pid_file = folder / "run" / "perdition.pid"
    proxy = in_front_of(small_server, protocol, perditions, pid_file=pid_file)
    sessions = [clients.log_in(proxy) for _ in range(3)]
    for each in sessions:
        each.use()
    assert int(pid_file.read_text()) == proxy.pid

    assert proxy.terminate() == 0, proxy.evidence()

    for each in sessions:
        each.read_to_end()
        expect_close(proxy, each)
    assert not pid_file.exists()


@pytest.mark.slow
def test_sigterm_ends_a_session_during_a_transfer(
    with_big_message: TwoServers, perditions: Perditions, folder: Path, clients: OpenClients
) -> None:
    """The logged byte count is what arrives, no more and no less."""
    proxy = perditions.start("imap4", "-M", "gdbm", "-m", with_big_message.popmap(folder, "imap4"))
    client = clients.log_in(proxy, "max")
    client.ask(b"c SELECT INBOX", rb"c OK.*\r\n")
    client.send(b"d FETCH 1 BODY.PEEK[]\r\n")
    client.wait_for_stall()

    assert proxy.terminate() == 0, proxy.evidence()

    client.read_to_end()
    assert client.received < BIG
    expect_close(proxy, client, "max")


@every_protocol
def test_half_close_still_gets_the_answer(
    protocol: str, small_server: RealServer, perditions: Perditions, clients: OpenClients
) -> None:
    """A client that has shut down sending still receives everything."""
    proxy = in_front_of(small_server, protocol, perditions)
    question, answer = PROTOCOLS[protocol].noop
    client = clients.log_in(proxy)

    client.send(question + b"\r\n")
    client.half_close()
    client.read_until(answer)
    assert client.read_to_end() == b""

    expect_close(proxy, client)


def test_last_answer_reaches_a_client_that_still_sends(perditions: Perditions) -> None:
    """The real server sends an error and closes with data unread: the client gets the error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = perditions.start("pop3", "-M", "", "-s", f"127.0.0.1:{listener.getsockname()[1]}")
        with RawConnection.to(proxy.address) as client:
            client.read_line()
            client.send(b"USER joe\r\nPASS secret\r\n")
            with RawConnection(listener.accept()[0]) as server:
                server.send(b"+OK hello\r\n")
                while not server.read_line().startswith(b"PASS"):
                    server.send(b"+OK\r\n")
                server.send(b"+OK\r\n")
                client.send(b"x" * (1 << 19))
                server.read_exactly(1000)
                server.send(b"-ERR enough\r\n")
            assert client.read_to_end().endswith(b"-ERR enough\r\n")


@every_protocol
def test_commands_after_the_login_reach_the_server(
    protocol: str, small_server: RealServer, perditions: Perditions
) -> None:
    """All in one packet, the login first: all are answered, in order, and counted."""
    proxy = in_front_of(small_server, protocol, perditions)
    commands = PROTOCOLS[protocol]
    login = commands.credentials("joe", PASSWORDS["joe"])
    question, answer = commands.noop
    behind = question + b"\r\n" + commands.logout + b"\r\n"

    with RawConnection.to(proxy.address) as client:
        client.read_until(commands.greeting)
        client.send(b"".join(command + b"\r\n" for command, _ in login) + behind)
        for _, welcome in login:
            client.read_until(welcome)
        from_server = client.read_until(answer) + client.read_to_end()

    [line] = proxy.wait_for_log(f"Close: {client.own_address}->")
    assert line.endswith(f" received={len(behind)} sent={len(from_server)}")


def test_literals_are_accepted_at_login(small_server: RealServer, perditions: Perditions) -> None:
    """User name and password as literals, directly followed by a command."""
    proxy = in_front_of(small_server, "imap4", perditions)
    password = PASSWORDS["joe"].encode()

    with RawConnection.to(proxy.address) as client:
        client.read_until(rb"\* OK.*\r\n")
        client.send(b"a LOGIN {3+}\r\njoe {%d}\r\n" % len(password))
        client.read_until(rb"\+.*\r\n")
        client.send(password + b"\r\nb NOOP\r\n")
        client.read_until(rb"(?m)^a OK.*\r\n")
        client.read_until(rb"^b OK.*\r\n")


def test_capabilities_after_login_are_the_real_servers(
    servers: TwoServers, perditions: Perditions, folder: Path
) -> None:
    """The client gets the same with and without perdition: at login, and by CAPABILITY."""
    proxy = perditions.start("imap4", "-M", "gdbm", "-m", servers.popmap(folder, "imap4"))

    direct = capabilities(("127.0.0.1", servers.north.ports["imap4"]))
    proxied = capabilities(proxy.address)

    assert "IDLE" in direct["login"]
    assert proxied == direct


def capabilities(address: tuple[str, int]) -> dict[str, set[str]]:
    """joe's capabilities in the answer to LOGIN, and by CAPABILITY."""
    commands = PROTOCOLS["imap4"]
    [(command, answer)] = commands.credentials("joe", PASSWORDS["joe"])
    with RawConnection.to(address) as client:
        client.read_until(commands.greeting)
        login = client.ask(command, answer).decode()
        asked = client.ask(b"b CAPABILITY", rb"b OK.*\r\n").decode()
    return {
        "login": set(login.partition("[CAPABILITY ")[2].partition("]")[0].split()),
        "asked": set(asked.partition("* CAPABILITY ")[2].splitlines()[0].split()),
    }
