"""What `make demo` shows: two users reach their own real servers through perdition.

    python3 -m tests.support.demo [--stay]

Two small real servers stand on two addresses of the loopback network, as two hosts would, so that
one popmap of users and servers does for all three protocols, as at a real site. Only the ports
are unusual, and so each perdition is told its servers' port by --outgoing_port.
"""

import argparse
import imaplib
import os
import poplib
import pwd
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.folders import BIN, checkout_is_public, public_folder
from tests.support.perdition import PerditionProcess, popmap
from tests.support.real_server import RealServer
from tests.support.recorded_socket import RecordedSocket
from tests.support.sieve import SieveClient


class User(NamedTuple):
    name: str
    password: str
    server: str
    address: str


USERS = (
    User("joe", "secret-of-joe", "north", "127.0.0.2"),
    User("ann", "secret-of-ann", "south", "127.0.0.3"),
)


def main() -> None:
    """Show everything; with --stay, stay until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Show perdition at work.")
    parser.add_argument("--stay", action="store_true", help="stay until Ctrl-C")
    stay = parser.parse_args().stay

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    drop_root()
    with suppress(KeyboardInterrupt), public_folder() as folder, ExitStack() as stack:
        proxies = start_all(folder, stack)
        show_sessions(proxies)
        if stay:
            tell_commands(proxies)
            signal.pause()


def drop_root() -> None:
    """Become nobody, if root, so that everything started here runs as an ordinary user.

    In a checkout that nobody cannot read, perdition drops root itself.
    """
    if os.geteuid() != 0:
        return
    if checkout_is_public():
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)


def start_all(folder: Path, stack: ExitStack) -> list[PerditionProcess]:
    """Two real servers, the popmap, and a perdition for each protocol."""
    north, south = USERS
    heading("Two real servers, each with one user")
    first = stack.enter_context(real_server(north))
    stack.enter_context(real_server(south, list(first.ports.values())))
    for user in USERS:
        ports = ", ".join(f"{protocol} {port}" for protocol, port in first.ports.items())
        say(f"{user.server} for {user.name} on {user.address}: {ports}")

    heading("The popmap: who lives where")
    for user in USERS:
        say(f"{user.name}:{user.address}")
    file = popmap(folder / "popmap.gdbm.db", {user.name: user.address for user in USERS})
    say(f"$ makegdbm {file} < popmap")

    heading("perdition for each protocol")
    proxies = []
    for protocol, port in first.ports.items():
        options = ("--outgoing_port", str(port), "--map_library_opt", file, "--workers", "1")
        proxies.append(stack.enter_context(PerditionProcess(protocol, folder, *options)))
        say(f"$ {shlex.join(proxies[-1].command).removeprefix(f'{BIN}/')}")
    return proxies


def real_server(user: User, ports: list[int] | None = None) -> RealServer:
    """The user's real server, on given ports or on any."""
    users = {user.name: user.password}
    return RealServer(user.server, users, user.address, ports or (0, 0, 0))


def show_sessions(proxies: list[PerditionProcess]) -> None:
    """Log in every user over each protocol, show the processes, read, log out, and show the
    dialogues and the log.
    """
    sessions = [(user, proxy) for user in USERS for proxy in proxies]
    visits = []
    for user, proxy in sessions:
        connection = RecordedSocket(proxy.address)
        visits.append((connection, CLIENTS[proxy.protocol](connection, user)))
        next(visits[-1][1])

    heading("The processes, while both users are logged in over all three")
    for proxy in proxies:
        proxy.expect_sessions(len(USERS))
        for process in proxy.processes():
            say(f"{process.pid:>7}  {account(process.uid)}  {process.title}")

    for (user, proxy), (connection, visit) in zip(sessions, visits, strict=True):
        next(visit, None)
        heading(f"{user.name} over {proxy.protocol}")
        for line in connection.lines():
            say(line)
        proxy.wait_for_log(f"Close: {connection.client_address}->")
        for line in proxy.logged(f": {connection.client_address}->"):
            say(f"log: {line}")
    print()


def account(uid: int) -> str:
    """The account's name, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def visit_pop3(connection: RecordedSocket, user: User) -> Iterator[None]:
    """Log in; the second step reads a message and logs out."""

    class Client(poplib.POP3):
        def _create_socket(self, _: float) -> RecordedSocket:
            return connection

    client = Client("")
    client.user(user.name)
    client.pass_(user.password)
    yield
    client.retr(1)
    client.quit()


def visit_imap4(connection: RecordedSocket, user: User) -> Iterator[None]:
    """Log in; the second step reads a message and logs out."""

    class Client(imaplib.IMAP4):
        def _create_socket(self, _: float | None) -> RecordedSocket:
            return connection

    client = Client()
    client.login(user.name, user.password)
    yield
    client.select()
    client.fetch("1", "(BODY[TEXT])")
    client.logout()


def visit_managesieve(connection: RecordedSocket, user: User) -> Iterator[None]:
    """Log in; the second step reads the scripts and logs out."""
    client = SieveClient(connection)
    client.login(user.name, user.password)
    yield
    client.getscript(client.listscripts()[0])
    client.logout()


CLIENTS: dict[str, Callable[[RecordedSocket, User], Iterator[None]]] = {
    "pop3": visit_pop3,
    "imap4": visit_imap4,
    "managesieve": visit_managesieve,
}


def tell_commands(proxies: list[PerditionProcess]) -> None:
    """How to connect with clients of one's own."""
    pop3, imap4, managesieve = (proxy.port for proxy in proxies)
    joe, ann = (f"--user {user.name}:{user.password}" for user in USERS)
    heading("perdition stays until Ctrl-C; from another terminal, for instance")
    say(f"curl {joe} pop3://127.0.0.1:{pop3}/1")
    say(f"curl {ann} 'imap://127.0.0.1:{imap4}/INBOX;MAILINDEX=1'")
    say(
        f"echo {USERS[0].password} | sieve-connect --nosrv --clearchan --server 127.0.0.1 "
        f"--port {managesieve} --user {USERS[0].name} --passwordfd 0 --list"
    )
    say(f"tail -f {' '.join(str(proxy.log) for proxy in proxies)}")
    print(flush=True)


def heading(text: str) -> None:
    """Begin a part of the show."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}{text}{plain}")


def say(line: str) -> None:
    """One line of a part."""
    print(f"    {line}", flush=True)


if __name__ == "__main__":
    main()
