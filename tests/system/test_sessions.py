"""Sessions from the first byte to the closing line: what reaches whom, and what the log says."""

import base64
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.proxy import Proxy
from tests.support.real_server import RealServer
from tests.support.session import DIALOGUES, Session
from tests.support.wait import until
from tests.support.wire import Wire
from tests.system.conftest import PASSWORDS, Proxies, Site

MANY = 1000
BIG = 100 << 20

every_protocol = pytest.mark.parametrize("protocol", DIALOGUES)


def in_front_of(
    server: RealServer, protocol: str, proxies: Proxies, *options: str, pid_file: Path | None = None
) -> Proxy:
    """A perdition that knows no users, and that one server."""
    target = ("-M", "", "-s", server.server(protocol))
    return proxies.start(protocol, *target, *options, pid_file=pid_file)


class Clients:
    """The sessions that a test holds open; they are closed with it."""

    def __init__(self) -> None:
        self._sessions: list[Session] = []

    def log_in(self, proxy: Proxy, user: str = "joe") -> Session:
        """A session of that user."""
        session = Session(proxy.address, proxy.protocol, user, PASSWORDS[user])
        self._sessions.append(session)
        return session

    def close(self) -> None:
        """Close them all; those that have logged out are closed already."""
        for session in self._sessions:
            session.close()


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Whoever logs in during one test."""
    with closing(Clients()) as all_of_them:
        yield all_of_them


def expect_close(proxy: Proxy, wire: Wire, user: str = "joe") -> None:
    """The closing line, with what this client sent and received since its login."""
    [line] = proxy.wait_for_log(f"Close: {wire.own_address}->")
    close = (
        f"Close: {wire.own_address}->127.0.0.1:{proxy.port} "
        f'authorisation_id=NONE authentication_id="{user}" '
        f"received={wire.sent} sent={wire.received}"
    )
    assert line.endswith(close), f"{line!r} does not end in {close!r}"


@every_protocol
def test_three_log_lines(
    protocol: str, site: Site, proxies: Proxies, folder: Path, clients: Clients
) -> None:
    """Connect, Auth and Close, to the letter and in this order."""
    proxy = proxies.start(protocol, "-M", "gdbm", "-m", site.popmap(folder, protocol))

    client = clients.log_in(proxy, "ann")
    client.use()
    client.log_out()

    expect_close(proxy, client, "ann")
    from_to = f"{client.own_address}->127.0.0.1:{proxy.port}"
    connect, auth, _ = proxy.logged(f": {client.own_address}->")
    assert connect.endswith(f"Connect: {from_to}")
    assert auth.endswith(
        f"Auth: {from_to} client-secure=plaintext "
        f'authorisation_id=NONE authentication_id="ann" server="{site.south.server(protocol)}" '
        f'protocol={protocol.upper()} server-secure=plaintext status="ok"'
    )


@pytest.fixture(scope="module")
def big_message() -> bytes:
    """A message of 100 MiB; every 1,000th line begins with a dot, as POP3 has to double."""
    random_bytes = random.Random(1).randbytes(BIG * 57 // 78)
    lines = base64.encodebytes(random_bytes).splitlines()
    lines[::1000] = [b"." + line[1:] for line in lines[::1000]]
    message = b"Subject: big\r\n\r\n" + b"\r\n".join(lines)
    return message[: BIG - 2].ljust(BIG - 2, b"x") + b"\r\n"


@pytest.fixture(scope="module")
def with_big_message(site: Site, big_message: bytes) -> Site:
    """The site; max has the big message."""
    site.north.deliver("max", big_message)
    return site


def test_big_message_over_imap4(
    with_big_message: Site, big_message: bytes, proxies: Proxies, folder: Path, clients: Clients
) -> None:
    """Down by FETCH and up by APPEND, whole and counted."""
    proxy = proxies.start("imap4", "-M", "gdbm", "-m", with_big_message.popmap(folder, "imap4"))
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


def test_big_message_over_pop3(
    with_big_message: Site, big_message: bytes, proxies: Proxies, folder: Path, clients: Clients
) -> None:
    """Down by RETR, whole and counted."""
    proxy = proxies.start("pop3", "-M", "gdbm", "-m", with_big_message.popmap(folder, "pop3"))
    client = clients.log_in(proxy, "max")

    client.ask(b"RETR 1", rb"\+OK.*\r\n")
    stuffed = big_message.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    assert client.read_exactly(len(stuffed)) == stuffed

    client.log_out()
    expect_close(proxy, client, "max")


def test_big_script_over_managesieve(
    site: Site, big_message: bytes, proxies: Proxies, folder: Path, clients: Clients
) -> None:
    """Up by PUTSCRIPT and down by GETSCRIPT, whole and counted."""
    proxy = proxies.start("managesieve", "-M", "gdbm", "-m", site.popmap(folder, "managesieve"))
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


def test_many_sessions_in_one_worker(
    small_server: RealServer, proxies: Proxies, many_files: None, clients: Clients
) -> None:
    """A thousand sessions at once: each is counted, each can be used, each is logged."""
    proxy = in_front_of(small_server, "imap4", proxies, "--workers", "1")

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


def test_killed_worker_takes_only_its_own_sessions(
    small_server: RealServer, proxies: Proxies, clients: Clients
) -> None:
    """kill -9 of one of two workers: the other one's sessions go on, and a new worker stands."""
    proxy = in_front_of(small_server, "imap4", proxies, "--workers", "2")
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
    small_server: RealServer, proxies: Proxies, clients: Clients
) -> None:
    """However young it was, the next one serves within a second: only many deaths have to wait."""
    proxy = in_front_of(small_server, "imap4", proxies, "--workers", "1")
    clients.log_in(proxy).use()
    [victim] = proxy.workers()

    killed = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    clients.log_in(proxy).use()

    took = time.monotonic() - killed
    assert took < 1, f"it took {took:.3f} s"


def sessions_on_both_workers(proxy: Proxy, clients: Clients) -> list[Session]:
    """As many sessions as it takes until both workers have some."""
    sessions: list[Session] = []
    while len(sessions) < 200:
        sessions += [clients.log_in(proxy) for _ in range(10)]
        if all(proxy.expect_sessions(len(sessions)).values()):
            return sessions
    raise AssertionError(f"one worker takes no sessions\n{proxy.evidence()}")


def still_usable(client: Session) -> bool:
    """Whether the session answers; if not, it has been closed."""
    try:
        client.use()
    except (AssertionError, ConnectionError):
        return False
    return True


@every_protocol
def test_sigterm_ends_open_sessions(
    protocol: str, small_server: RealServer, proxies: Proxies, folder: Path, clients: Clients
) -> None:
    """Their clients see the end, the log has their closing lines, and no pidfile stays."""
    pid_file = folder / "run" / "perdition.pid"
    proxy = in_front_of(small_server, protocol, proxies, pid_file=pid_file)
    sessions = [clients.log_in(proxy) for _ in range(3)]
    for each in sessions:
        each.use()
    assert int(pid_file.read_text()) == proxy.pid

    assert proxy.terminate() == 0, proxy.evidence()

    for each in sessions:
        each.read_to_end()
        expect_close(proxy, each)
    assert not pid_file.exists()


def test_sigterm_amid_a_transfer(
    with_big_message: Site, proxies: Proxies, folder: Path, clients: Clients
) -> None:
    """What perdition says it sent is what arrives, no more and no less."""
    proxy = proxies.start("imap4", "-M", "gdbm", "-m", with_big_message.popmap(folder, "imap4"))
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
    protocol: str, small_server: RealServer, proxies: Proxies, clients: Clients
) -> None:
    """A client that has said everything still hears everything."""
    proxy = in_front_of(small_server, protocol, proxies)
    question, answer = DIALOGUES[protocol].question
    client = clients.log_in(proxy)

    client.send(question + b"\r\n")
    client.half_close()
    client.read_until(answer)
    assert client.read_to_end() == b""

    expect_close(proxy, client)


def test_last_words_reach_a_client_that_still_sends(proxies: Proxies) -> None:
    """The real server complains and closes with data unread: the client hears the complaint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = proxies.start("pop3", "-M", "", "-s", f"127.0.0.1:{listener.getsockname()[1]}")
        with Wire.to(proxy.address) as client:
            client.read_line()
            client.send(b"USER joe\r\nPASS secret\r\n")
            with Wire(listener.accept()[0]) as server:
                server.send(b"+OK hello\r\n")
                while not server.read_line().startswith(b"PASS"):
                    server.send(b"+OK\r\n")
                server.send(b"+OK\r\n")
                client.send(b"x" * (1 << 19))
                server.read_exactly(1000)
                server.send(b"-ERR enough\r\n")
            assert client.read_to_end().endswith(b"-ERR enough\r\n")


@every_protocol
def test_commands_behind_the_login_reach_the_server(
    protocol: str, small_server: RealServer, proxies: Proxies
) -> None:
    """Everything in one packet, the login first: it is all answered, in order, and counted."""
    proxy = in_front_of(small_server, protocol, proxies)
    dialogue = DIALOGUES[protocol]
    login = dialogue.credentials("joe", PASSWORDS["joe"])
    question, answer = dialogue.question
    behind = question + b"\r\n" + dialogue.farewell + b"\r\n"

    with Wire.to(proxy.address) as client:
        client.read_until(dialogue.greeting)
        client.send(b"".join(command + b"\r\n" for command, _ in login) + behind)
        for _, welcome in login:
            client.read_until(welcome)
        from_server = client.read_until(answer) + client.read_to_end()

    [line] = proxy.wait_for_log(f"Close: {client.own_address}->")
    assert line.endswith(f" received={len(behind)} sent={len(from_server)}")


def test_literals_at_login(small_server: RealServer, proxies: Proxies) -> None:
    """User name and password as literals, with a command right behind."""
    proxy = in_front_of(small_server, "imap4", proxies)
    password = PASSWORDS["joe"].encode()

    with Wire.to(proxy.address) as client:
        client.read_until(rb"\* OK.*\r\n")
        client.send(b"a LOGIN {3+}\r\njoe {%d}\r\n" % len(password))
        client.read_until(rb"\+.*\r\n")
        client.send(password + b"\r\nb NOOP\r\n")
        client.read_until(rb"(?m)^a OK.*\r\n")
        client.read_until(rb"^b OK.*\r\n")


def test_capabilities_after_login_are_the_real_servers(
    site: Site, proxies: Proxies, folder: Path
) -> None:
    """The client learns the same with and without perdition: at login, and when it asks."""
    proxy = proxies.start("imap4", "-M", "gdbm", "-m", site.popmap(folder, "imap4"))

    direct = capabilities(("127.0.0.1", site.north.ports["imap4"]))
    proxied = capabilities(proxy.address)

    assert "IDLE" in direct["login"]
    assert proxied == direct


def capabilities(address: tuple[str, int]) -> dict[str, set[str]]:
    """What joe learns at login, and what a CAPABILITY command tells."""
    dialogue = DIALOGUES["imap4"]
    [(command, answer)] = dialogue.credentials("joe", PASSWORDS["joe"])
    with Wire.to(address) as client:
        client.read_until(dialogue.greeting)
        login = client.ask(command, answer).decode()
        asked = client.ask(b"b CAPABILITY", rb"b OK.*\r\n").decode()
    return {
        "login": set(login.partition("[CAPABILITY ")[2].partition("]")[0].split()),
        "asked": set(asked.partition("* CAPABILITY ")[2].splitlines()[0].split()),
    }
