"""Local authentication: real PAM, real modules, and modules that misbehave."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Self

import pytest

from perdition.helper.process import MAX_RUNNING, MAX_RUNNING_PER_USER
from tests.process.conftest import (
    ACCOUNT,
    NAMES,
    PASSWORD,
    Clients,
    Started,
    every_protocol,
    needs_root,
)
from tests.support.family import Member, descendants
from tests.support.folders import public_folder
from tests.support.proxy import BIN, Proxy
from tests.support.saved import saved
from tests.support.session import DIALOGUES
from tests.support.superserver import ByHand
from tests.support.wait import DEADLINE, until
from tests.support.wire import Wire

pytestmark = needs_root

EXPIRED = "perdition-late"
OTHER = Path("/etc/pam.d/other")
UNIX = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n"
FEW = ("--workers", "2", "-a")
REFUSED = 'status="failed: local authentication failure"'
UNAVAILABLE = 'status="failed: local authentication failure: unavailable"'
SOON = 5.0

MODULE = r"""
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int pam_get_user(void *handle, const char **user, const char *prompt);

int pam_sm_authenticate(void *handle, int flags, int count, const char **arguments)
{
    const char *user;
    if (pam_get_user(handle, &user, 0))
        return 4;
    if (!strcmp(user, "hangs"))
        for (;;) pause();
    if (!strcmp(user, "aborts"))
        abort();
    if (!strcmp(user, "breaks"))
        *(volatile int *)0 = 1;
    if (!strcmp(user, "leaves"))
        _exit(0);
    if (!strcmp(user, "chatters")) {
        write(1, "x\r\n", 3);
        write(2, "x\r\n", 3);
    }
    return 0;
}

int pam_sm_setcred(void *handle, int flags, int count, const char **arguments)
{
    return 0;
}
"""


@pytest.fixture(scope="module")
def accounts() -> Iterator[None]:
    """Two users of this system: one with a password, and one whose time is over as well."""
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"],
        input=PASSWORD,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    remove_accounts()
    for name, further in ((ACCOUNT, ()), (EXPIRED, ("--expiredate", "2001-01-01"))):
        subprocess.run(
            [
                *("useradd", "--no-create-home", "--no-user-group", "--password", hashed),
                *(*further, name),
            ],
            check=True,
            capture_output=True,
        )
    yield
    remove_accounts()


def remove_accounts() -> None:
    """They are no users of this system any more, if they were."""
    for name in (ACCOUNT, EXPIRED):
        subprocess.run(["userdel", name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def module() -> Iterator[Path]:
    """A PAM module that does what the user's name says; it takes the passwords of all others."""
    if not shutil.which("gcc"):
        pytest.skip("there is no C compiler")
    with public_folder() as folder:
        source, built = folder / "pam_odd.c", folder / "pam_odd.so"
        source.write_text(MODULE)
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", "-o", built, source, "-l:libpam.so.0"], check=True
        )
        yield built


@pytest.fixture
def odd(module: Path, pam_service: Path) -> None:
    """PAM asks that module."""
    pam_service.write_text(f"auth required {module}\naccount required pam_permit.so\n")


@pytest.fixture
def unix(accounts: None, pam_service: Path) -> None:
    """PAM asks the system's user database."""
    pam_service.write_text(UNIX)


class Nowhere:
    """A real server that nobody may connect to."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.name = "{}:{}".format(*self._listener.getsockname())
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def was_asked(self) -> bool:
        """Whether there was a connection."""
        with suppress(BlockingIOError):
            self._listener.accept()[0].close()
            return True
        return False


def try_to_log_in(clients: Clients, proxy: Proxy, user: str, password: str = PASSWORD) -> Wire:
    """Give user and password, and do not wait for what comes of it."""
    wire = clients.connect(proxy)
    give_credentials(wire, proxy.protocol, user, password)
    return wire


def give_credentials(wire: Wire, protocol: str, user: str, password: str = PASSWORD) -> None:
    """Come as far as to what the password is answered with."""
    wire.read_until(DIALOGUES[protocol].greeting)
    *first, (last, _) = DIALOGUES[protocol].credentials(user, password)
    for command, answer in first:
        wire.ask(command, answer)
    wire.send(last + b"\r\n")


def auth_line(proxy: Proxy, wire: Wire) -> str:
    """What the log says of that client's login."""
    return proxy.wait_for_log(f"Auth: {wire.own_address}->")[0]


def welcome(protocol: str) -> bytes:
    """The pattern of the answer to a right password."""
    _, answer = DIALOGUES[protocol].credentials("", "")[-1]
    return answer


def helper_of(proxy: Proxy) -> Member:
    """The process that asks PAM; right after the start it may still have to come."""
    return until(lambda: helper_or_none(proxy), lambda: f"a helper\n{proxy.evidence()}")


def helper_or_none(proxy: Proxy) -> Member | None:
    """The process that asks PAM, while there is one."""
    found = [each.pid for each in proxy.processes() if each.title.endswith(": helper")]
    return Member(found[0]) if found else None


def authenticating(proxy: Proxy) -> list[int]:
    """The processes that ask PAM about one login each."""
    return [each.pid for each in proxy.processes() if each.title.endswith("authenticating")]


# What PAM says of passwords and accounts.


@every_protocol
def test_right_password(protocol: str, started: Started, clients: Clients, unix: None) -> None:
    """The user is let through, by workers that are not root, and PAM's process has gone."""
    proxy = started.foreground(protocol, *FEW)

    session = clients.log_in(proxy, ACCOUNT)
    session.use()

    assert auth_line(proxy, session).endswith('status="ok"')
    for worker in proxy.workers():
        uids, gids, groups = Member(worker.pid).ids()
        assert "0" not in uids | gids, worker
        assert not groups, worker
    assert helper_of(proxy).ids()[0] == {"0"}
    until(lambda: not authenticating(proxy), proxy.evidence)


@every_protocol
def test_refusals(protocol: str, started: Started, clients: Clients, unix: None) -> None:
    """Wrong password, no such user, an account that has expired: the real server is not asked."""
    with Nowhere() as nowhere:
        proxy = started.foreground(protocol, *FEW, "-s", nowhere.name)
        tries = [
            try_to_log_in(clients, proxy, ACCOUNT, "wrong"),
            try_to_log_in(clients, proxy, "no-such-user"),
            try_to_log_in(clients, proxy, EXPIRED),
        ]
        for wire in tries:
            assert auth_line(proxy, wire).endswith(REFUSED), proxy.evidence()
        refusal = tries[0].read_line()
        assert re.match(rb"-ERR|a NO|NO", refusal), refusal
        assert not nowhere.was_asked()


def test_right_password_after_a_wrong_one(started: Started, clients: Clients, unix: None) -> None:
    """On the same connection: a failed try is not the last."""
    proxy = started.foreground("imap4", *FEW)
    wire = try_to_log_in(clients, proxy, ACCOUNT, "wrong")
    wire.read_until(rb"a NO.*\r\n")

    [(command, answer)] = DIALOGUES["imap4"].credentials(ACCOUNT, PASSWORD)
    wire.ask(command, answer)


def test_password_of_any_octets(
    started: Started, clients: Clients, pam_service: Path, folder: Path
) -> None:
    """PAM gets them as they are."""
    password = 'p "q\\ é%s$HOME;`id`'
    heard = folder / "heard"
    script = executable(folder / "hear", f'cat >"{heard}"')
    pam_service.write_text(
        f"auth required pam_exec.so expose_authtok quiet {script}\naccount required pam_permit.so\n"
    )
    proxy = started.foreground("managesieve", *FEW)

    wire = try_to_log_in(clients, proxy, "joe", password)
    auth_line(proxy, wire)

    assert heard.read_bytes().rstrip(b"\0") == password.encode()


def executable(path: Path, script: str) -> Path:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# What PAM is told.


@pytest.fixture
def told(folder: Path, pam_service: Path) -> Path:
    """A file with a line for each time that PAM asks a module: what the module knows then."""
    path = folder / "told"
    line = "$PAM_TYPE service=$PAM_SERVICE user=$PAM_USER rhost=$PAM_RHOST"
    script = executable(folder / "tell", f'echo "{line}" >>"{path}"')
    pam_service.write_text(
        "".join(f"{kind} required pam_exec.so quiet {script}\n" for kind in ("auth", "account"))
    )
    return path


@every_protocol
def test_what_modules_know(protocol: str, started: Started, clients: Clients, told: Path) -> None:
    """Service, user and the client's address; authentication first, then the account."""
    proxy = started.foreground(protocol, *FEW)

    clients.log_in(proxy)

    common = "service=perdition user=joe rhost=127.0.0.1"
    assert told.read_text().splitlines() == [f"auth {common}", f"account {common}"]


@pytest.mark.parametrize(
    ("options", "typed", "local"),
    [
        ((), "JOE@Example.ORG", "JOE@Example.ORG"),
        (("-S", "local_authentication"), "JOE@Example.ORG", "JOE"),
        (("-S", "local_auth", "--lower_case", "local_auth"), "JOE@Example.ORG", "joe"),
        (("-S", "remote_login"), "JOE@Example.ORG", "JOE@Example.ORG"),
        (("--lower_case", "local_authentication"), "JOE@Example.ORG", "joe@example.org"),
        (("--lower_case", "remote_login"), "JOE", "JOE"),
        (("-A", "local_authentication", "-e", "example.org"), "joe", "joe@example.org"),
        (("-A", "all", "-e", "example.org"), "joe", "joe@example.org"),
        (("-A", "remote_login", "-e", "example.org"), "joe", "joe"),
        (("-c", "-D", "%"), "joe%{server}", "joe"),
    ],
)
def test_name_in_the_state(
    options: tuple[str, ...], typed: str, local: str, started: Started, clients: Clients, told: Path
) -> None:
    """PAM is asked about the name as the state local_authentication makes it."""
    proxy = started.foreground("imap4", *FEW, *options)
    server = started.target("imap4")[-1]

    clients.log_in(proxy, typed.format(server=server)).use()

    users = {re.findall(r"user=(\S+)", line)[0] for line in told.read_text().splitlines()}
    assert users == {local}


# Many, slow and broken.


@pytest.fixture
def gate(folder: Path, pam_service: Path) -> Path:
    """A file that PAM waits for; `<gate>.<n>` are those who wait."""
    path = folder / "gate"
    open_or_gone = f'[ -e "{path}" ] || [ ! -d "{folder}" ]'
    script = executable(
        folder / "wait", f'touch "{path}.$$"\nuntil {open_or_gone}; do sleep 0.05; done'
    )
    pam_service.write_text(
        f"auth required pam_exec.so quiet {script}\naccount required pam_permit.so\n"
    )
    return path


def waiting(gate: Path) -> int:
    """How many wait at the gate."""
    return len(list(gate.parent.glob(f"{gate.name}.*")))


def in_turn(count: int) -> Iterator[str]:
    """So many of the users, one after the other."""
    return islice(cycle(NAMES), count)


def test_several_at_once(started: Started, clients: Clients, gate: Path) -> None:
    """Twenty are asked about before the first has an answer."""
    proxy = started.foreground("imap4", *FEW)
    tries = [try_to_log_in(clients, proxy, user) for user in in_turn(20)]
    until(lambda: waiting(gate) == len(tries), lambda: f"{waiting(gate)}\n{proxy.evidence()}")

    gate.touch()

    for wire in tries:
        wire.read_until(welcome("imap4"))


def test_more_than_are_asked_about_at_once(started: Started, clients: Clients, gate: Path) -> None:
    """Further ones wait for their turn; who leaves meanwhile makes room."""
    proxy = started.foreground("imap4", *FEW, "--authenticate_timeout", "120")
    gone = clients.connect(proxy, resets=True)
    give_credentials(gone, "imap4", "joe")
    tries = [try_to_log_in(clients, proxy, user) for user in in_turn(MAX_RUNNING - 1)]
    until(lambda: waiting(gate) == MAX_RUNNING, lambda: f"{waiting(gate)}\n{proxy.evidence()}")
    later = [try_to_log_in(clients, proxy, user) for user in in_turn(10)]

    gone.close()
    until(lambda: waiting(gate) > MAX_RUNNING, lambda: f"{waiting(gate)}\n{proxy.evidence()}")
    gate.touch()

    for wire in (*tries, *later):
        wire.read_until(welcome("imap4"))


def test_client_that_does_not_wait(started: Started, clients: Clients, gate: Path) -> None:
    """It goes while PAM is asked: its answer is nobody else's."""
    proxy = started.foreground("imap4", "--workers", "1", "-a")
    gone = try_to_log_in(clients, proxy, "joe")
    stays = try_to_log_in(clients, proxy, "joe")
    until(lambda: waiting(gate) == 2, proxy.evidence)

    gone.close()
    gate.touch()

    stays.read_until(welcome("imap4"))
    proxy.wait_for_log(f"Close: {gone.own_address}->")


def test_module_that_hangs(started: Started, clients: Clients, odd: None) -> None:
    """It delays its own user only, and not for ever; its process is ended."""
    proxy = started.foreground("imap4", *FEW, "--authenticate_timeout", "3")
    hanging = [try_to_log_in(clients, proxy, "hangs") for _ in range(5)]
    until(lambda: len(authenticating(proxy)) == 5, proxy.evidence)

    for _ in range(10):
        clients.log_in(proxy).log_out()
    assert len(authenticating(proxy)) == 5, f"no longer meanwhile\n{proxy.evidence()}"

    for wire in hanging:
        assert auth_line(proxy, wire).endswith(UNAVAILABLE), proxy.evidence()
    until(lambda: not authenticating(proxy), proxy.evidence)


def test_module_that_hangs_for_ever_more_logins(
    started: Started, clients: Clients, odd: None
) -> None:
    """However many they are, all others are asked about as before."""
    proxy = started.foreground("imap4", *FEW)
    for _ in range(MAX_RUNNING + 10):
        try_to_log_in(clients, proxy, "hangs")
    until(lambda: len(authenticating(proxy)) == MAX_RUNNING_PER_USER, proxy.evidence)

    clients.log_in(proxy).use()


def test_end_while_a_module_hangs(started: Started, clients: Clients, odd: None) -> None:
    """Nobody waits for it then."""
    proxy = started.foreground("imap4", *FEW)
    try_to_log_in(clients, proxy, "hangs")
    until(lambda: authenticating(proxy), proxy.evidence)

    assert proxy.terminate() == 0, proxy.evidence()
    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", SOON)


@pytest.mark.parametrize("user", ["aborts", "breaks", "leaves"])
def test_module_that_crashes(user: str, started: Started, clients: Clients, odd: None) -> None:
    """Its user is not let in; the helper and everybody else notice nothing."""
    with Nowhere() as nowhere:
        proxy = started.foreground("imap4", *FEW, "-s", nowhere.name)
        helper = helper_of(proxy).pid

        wire = try_to_log_in(clients, proxy, user)
        line = auth_line(proxy, wire)

        assert line.endswith(UNAVAILABLE), line
        assert not nowhere.was_asked(), f"{user} is let in"
        assert helper_of(proxy).pid == helper, proxy.evidence()
    proxy = started.foreground("imap4", *FEW)
    clients.log_in(proxy).use()


def test_no_service_file(started: Started, clients: Clients, pam_service: Path) -> None:
    """What `other` says counts; with neither, nobody is let in."""
    with saved(OTHER) as other:
        pam_service.unlink(missing_ok=True)
        other.write_text("auth required pam_deny.so\naccount required pam_deny.so\n")
        proxy = started.foreground("imap4", *FEW)
        denied = try_to_log_in(clients, proxy, "joe")
        assert "failed: local authentication failure" in auth_line(proxy, denied)

        other.unlink()
        denied = try_to_log_in(clients, proxy, "joe")
        assert "failed: local authentication failure" in auth_line(proxy, denied)

        other.write_text("auth required pam_permit.so\naccount required pam_permit.so\n")
        clients.log_in(proxy).use()


def test_missing_module(started: Started, clients: Clients, pam_service: Path) -> None:
    """A mistake in the service file lets nobody in, and is the operator's to see."""
    pam_service.write_text("auth required pam_no_such.so\naccount required pam_permit.so\n")
    proxy = started.foreground("imap4", *FEW)

    wire = try_to_log_in(clients, proxy, "joe")

    assert "failed: local authentication failure" in auth_line(proxy, wire)


# A helper that dies.


def test_helper_dies_during_a_login(started: Started, clients: Clients, gate: Path) -> None:
    """That login fails for now, and the next is the new helper's."""
    proxy = started.foreground("imap4", *FEW)
    wire = try_to_log_in(clients, proxy, "joe")
    until(lambda: waiting(gate), proxy.evidence)
    helper = helper_of(proxy)

    os.kill(helper.pid, signal.SIGKILL)

    assert auth_line(proxy, wire).endswith(UNAVAILABLE), proxy.evidence()
    gate.touch()
    until(
        lambda: (found := helper_or_none(proxy)) and found.pid != helper.pid,
        lambda: f"another helper\n{proxy.evidence()}",
    )
    clients.log_in(proxy).use()
    until(lambda: not authenticating(proxy), proxy.evidence)


def test_no_helper_without_need(started: Started) -> None:
    """Where neither PAM nor certificates are used, nobody stays root."""
    proxy = started.foreground("imap4", "--workers", "2")

    assert [each.uid for each in proxy.processes() if each.uid == 0] == [], proxy.evidence()


# inetd mode.


def by_hand(started: Started, folder: Path, protocol: str) -> ByHand:
    """perdition for one client, with local authentication."""
    options = ("-f", "", "-F", str(folder / "log"), "-a", "--authenticate_timeout", "3")
    return ByHand(BIN / f"perdition.{protocol}", *started.target(protocol), *options)


@every_protocol
def test_inetd_mode(protocol: str, started: Started, folder: Path, unix: None) -> None:
    """As in any other mode; the process that serves is not root, and nothing stays."""
    with by_hand(started, folder, protocol) as served:
        give_credentials(served.client, protocol, ACCOUNT)
        served.client.read_until(welcome(protocol))
        assert "0" not in Member(served.process.pid).ids()[0]
        served.client.close()
        assert served.status() == 0, (folder / "log").read_text()


def test_inetd_mode_wrong_password(started: Started, folder: Path, unix: None) -> None:
    """It is refused."""
    with by_hand(started, folder, "imap4") as served:
        give_credentials(served.client, "imap4", ACCOUNT, "wrong")
        served.client.read_until(rb"a NO.*\r\n")
        served.client.close()
        assert served.status() == 0, (folder / "log").read_text()
    assert REFUSED in (folder / "log").read_text()


def test_inetd_mode_module_that_chatters(started: Started, folder: Path, odd: None) -> None:
    """What a module writes to standard output or error does not reach the client."""
    with by_hand(started, folder, "imap4") as served:
        give_credentials(served.client, "imap4", "chatters")
        line = served.client.read_line()
    assert re.match(rb"a NO|\* ", line), f"the client gets {line!r}"


def test_inetd_mode_killed_while_a_module_hangs(started: Started, folder: Path, odd: None) -> None:
    """The client sees the end, and nobody stays behind."""
    with by_hand(started, folder, "imap4") as served:
        give_credentials(served.client, "imap4", "hangs")

        def asked() -> list[Member]:
            everybody = descendants(served.process.pid)
            return [each for each in everybody if each.title.endswith("authenticating")]

        until(asked, lambda: f"PAM is asked: {descendants(served.process.pid)}")
        everybody = descendants(served.process.pid)
        os.kill(served.process.pid, signal.SIGKILL)
        served.client.read_to_end()
        until(
            lambda: not [each for each in everybody if each.alive()],
            lambda: f"left: {everybody}",
            deadline=DEADLINE,
        )
