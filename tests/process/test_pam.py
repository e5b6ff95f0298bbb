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

from perdition.helper.helper import MAX_RUNNING, MAX_RUNNING_PER_USER
from tests.process.conftest import ACCOUNT, NAMES, PASSWORD, every_protocol, needs_root
from tests.support.client_connection import PROTOCOLS, OpenClients, RawConnection
from tests.support.folders import BIN, public_folder
from tests.support.perdition import PerditionProcess, Perditions
from tests.support.processes import ProcessInfo, descendants
from tests.support.saved import saved
from tests.support.superserver import ProgramOnSocket
from tests.support.wait import DEADLINE, until

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
    """Two users of this system: one with a password, and one whose account has expired as well."""
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
    """Delete the users, if there are any."""
    for name in (ACCOUNT, EXPIRED):
        subprocess.run(["userdel", name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def module() -> Iterator[Path]:
    """A PAM module that acts on the user's name, and accepts other users' passwords."""
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
    """PAM uses that module."""
    pam_service.write_text(f"auth required {module}\naccount required pam_permit.so\n")


@pytest.fixture
def unix(accounts: None, pam_service: Path) -> None:
    """PAM uses the system's user database."""
    pam_service.write_text(UNIX)


class IdleServer:
    """A real server that perdition must not connect to."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.name = "{}:{}".format(*self._listener.getsockname())
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def was_contacted(self) -> bool:
        with suppress(BlockingIOError):
            self._listener.accept()[0].close()
            return True
        return False


def try_to_log_in(
    clients: OpenClients, proxy: PerditionProcess, user: str, password: str = PASSWORD
) -> RawConnection:
    """Send user and password, and do not wait for the answer."""
    connection = clients.connect(proxy)
    give_credentials(connection, proxy.protocol, user, password)
    return connection


def give_credentials(
    connection: RawConnection, protocol: str, user: str, password: str = PASSWORD
) -> None:
    """Send all of a login, and do not read the answer to the password."""
    connection.read_until(PROTOCOLS[protocol].greeting)
    *first, (last, _) = PROTOCOLS[protocol].credentials(user, password)
    for command, answer in first:
        connection.ask(command, answer)
    connection.send(last + b"\r\n")


def auth_line(proxy: PerditionProcess, connection: RawConnection) -> str:
    """The log's Auth line of that client."""
    return proxy.wait_for_log(f"Auth: {connection.own_address}->")[0]


def welcome(protocol: str) -> bytes:
    """The pattern of the answer to a right password."""
    _, answer = PROTOCOLS[protocol].credentials("", "")[-1]
    return answer


def helper_of(proxy: PerditionProcess) -> ProcessInfo:
    """Wait for the helper, which may start later than the workers."""
    return until(lambda: helper_or_none(proxy), lambda: f"a helper\n{proxy.evidence()}")


def helper_or_none(proxy: PerditionProcess) -> ProcessInfo | None:
    found = [each.pid for each in proxy.processes() if each.title.endswith(": helper")]
    return ProcessInfo(found[0]) if found else None


def authenticating(proxy: PerditionProcess) -> list[int]:
    """The processes that each ask PAM about one login."""
    return [each.pid for each in proxy.processes() if each.title.endswith("authenticating")]


# Passwords and accounts.


@every_protocol
def test_right_password_logs_in(
    protocol: str, perditions: Perditions, clients: OpenClients, unix: None
) -> None:
    """The user is logged in, by workers that are not root, and the process that asked PAM has
    exited.
    """
    proxy = perditions.start(protocol, *FEW)

    session = clients.log_in(proxy, ACCOUNT)
    session.use()

    assert auth_line(proxy, session).endswith('status="ok"')
    for worker in proxy.workers():
        uids, gids, groups = worker.ids()
        assert "0" not in uids | gids, worker
        assert not groups, worker
    assert helper_of(proxy).ids()[0] == {"0"}
    until(lambda: not authenticating(proxy), proxy.evidence)


@every_protocol
@pytest.mark.slow
def test_refused_logins_have_their_reason_in_the_log(
    protocol: str, perditions: Perditions, clients: OpenClients, unix: None
) -> None:
    """Wrong password, no such user, or an expired account: the real server is not contacted."""
    with IdleServer() as server:
        proxy = perditions.start(protocol, *FEW, "-s", server.name)
        tries = [
            try_to_log_in(clients, proxy, ACCOUNT, "wrong"),
            try_to_log_in(clients, proxy, "no-such-user"),
            try_to_log_in(clients, proxy, EXPIRED),
        ]
        for connection in tries:
            assert auth_line(proxy, connection).endswith(REFUSED), proxy.evidence()
        refusal = tries[0].read_line()
        assert re.match(rb"-ERR|a NO|NO", refusal), refusal
        assert not server.was_contacted()


@pytest.mark.slow
def test_right_password_succeeds_after_a_wrong_one(
    perditions: Perditions, clients: OpenClients, unix: None
) -> None:
    """On the same connection."""
    proxy = perditions.start("imap4", *FEW)
    connection = try_to_log_in(clients, proxy, ACCOUNT, "wrong")
    connection.read_until(rb"a NO.*\r\n")

    [(command, answer)] = PROTOCOLS["imap4"].credentials(ACCOUNT, PASSWORD)
    connection.ask(command, answer)


def test_password_may_contain_any_bytes(
    perditions: Perditions, clients: OpenClients, pam_service: Path, folder: Path
) -> None:
    """PAM gets them unchanged."""
    password = 'p "q\\ é%s$HOME;`id`'
    heard = folder / "heard"
    script = executable(folder / "hear", f'cat >"{heard}"')
    pam_service.write_text(
        f"auth required pam_exec.so expose_authtok quiet {script}\naccount required pam_permit.so\n"
    )
    proxy = perditions.start("managesieve", *FEW)

    connection = try_to_log_in(clients, proxy, "joe", password)
    auth_line(proxy, connection)

    assert heard.read_bytes().rstrip(b"\0") == password.encode()


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# PAM items.


@pytest.fixture
def told(folder: Path, pam_service: Path) -> Path:
    """A file to which a PAM module writes a line with what it knows, for each call."""
    path = folder / "told"
    line = "$PAM_TYPE service=$PAM_SERVICE user=$PAM_USER rhost=$PAM_RHOST"
    script = executable(folder / "tell", f'echo "{line}" >>"{path}"')
    pam_service.write_text(
        "".join(f"{kind} required pam_exec.so quiet {script}\n" for kind in ("auth", "account"))
    )
    return path


@every_protocol
def test_modules_get_user_and_client_address(
    protocol: str, perditions: Perditions, clients: OpenClients, told: Path
) -> None:
    """Service, user and the client's address; authentication first, then the account."""
    proxy = perditions.start(protocol, *FEW)

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
def test_pam_gets_the_name_for_local_authentication(
    options: tuple[str, ...],
    typed: str,
    local: str,
    perditions: Perditions,
    clients: OpenClients,
    told: Path,
) -> None:
    """PAM gets the name as the state local_authentication makes it."""
    proxy = perditions.start("imap4", *FEW, *options)
    server = perditions.server_options("imap4")[-1]

    clients.log_in(proxy, typed.format(server=server)).use()

    users = {re.findall(r"user=(\S+)", line)[0] for line in told.read_text().splitlines()}
    assert users == {local}


# Many logins, slow modules, broken modules.


@pytest.fixture
def gate(folder: Path, pam_service: Path) -> Path:
    """A file that PAM waits for; `<gate>.<n>` are the waiting processes."""
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
    """The number of processes that wait for the gate."""
    return len(list(gate.parent.glob(f"{gate.name}.*")))


def cycle_users(count: int) -> Iterator[str]:
    """That many users, in rotation."""
    return islice(cycle(NAMES), count)


@pytest.mark.slow
def test_several_logins_are_verified_at_once(
    perditions: Perditions, clients: OpenClients, gate: Path
) -> None:
    """PAM is asked about twenty logins before the first is answered."""
    proxy = perditions.start("imap4", *FEW)
    tries = [try_to_log_in(clients, proxy, user) for user in cycle_users(20)]
    until(lambda: waiting(gate) == len(tries), lambda: f"{waiting(gate)}\n{proxy.evidence()}")

    gate.touch()

    for connection in tries:
        connection.read_until(welcome("imap4"))


@pytest.mark.slow
def test_logins_beyond_the_limit_wait(
    perditions: Perditions, clients: OpenClients, gate: Path
) -> None:
    """A client that disconnects makes room for the next."""
    proxy = perditions.start("imap4", *FEW, "--authenticate_timeout", "120")
    gone = clients.connect(proxy, resets=True)
    give_credentials(gone, "imap4", "joe")
    tries = [try_to_log_in(clients, proxy, user) for user in cycle_users(MAX_RUNNING - 1)]
    until(lambda: waiting(gate) == MAX_RUNNING, lambda: f"{waiting(gate)}\n{proxy.evidence()}")
    later = [try_to_log_in(clients, proxy, user) for user in cycle_users(10)]

    gone.close()
    until(lambda: waiting(gate) > MAX_RUNNING, lambda: f"{waiting(gate)}\n{proxy.evidence()}")
    gate.touch()

    for connection in (*tries, *later):
        connection.read_until(welcome("imap4"))


def test_client_may_disconnect_while_pam_works(
    perditions: Perditions, clients: OpenClients, gate: Path
) -> None:
    """Its answer goes to no other client."""
    proxy = perditions.start("imap4", "--workers", "1", "-a")
    gone = try_to_log_in(clients, proxy, "joe")
    stays = try_to_log_in(clients, proxy, "joe")
    until(lambda: waiting(gate) == 2, proxy.evidence)

    gone.close()
    gate.touch()

    stays.read_until(welcome("imap4"))
    proxy.wait_for_log(f"Close: {gone.own_address}->")


@pytest.mark.slow
def test_hanging_module_fails_only_its_own_login(
    perditions: Perditions, clients: OpenClients, odd: None
) -> None:
    """It delays only its own user, and only until the time limit; its process is killed."""
    proxy = perditions.start("imap4", *FEW, "--authenticate_timeout", "3")
    hanging = [try_to_log_in(clients, proxy, "hangs") for _ in range(5)]
    until(lambda: len(authenticating(proxy)) == 5, proxy.evidence)

    for _ in range(10):
        clients.log_in(proxy).log_out()
    assert len(authenticating(proxy)) == 5, f"no longer meanwhile\n{proxy.evidence()}"

    for connection in hanging:
        assert auth_line(proxy, connection).endswith(UNAVAILABLE), proxy.evidence()
    until(lambda: not authenticating(proxy), proxy.evidence)


def test_many_hanging_logins_delay_no_other_user(
    perditions: Perditions, clients: OpenClients, odd: None
) -> None:
    """All other logins go on as before."""
    proxy = perditions.start("imap4", *FEW)
    for _ in range(MAX_RUNNING + 10):
        try_to_log_in(clients, proxy, "hangs")
    until(lambda: len(authenticating(proxy)) == MAX_RUNNING_PER_USER, proxy.evidence)

    clients.log_in(proxy).use()


def test_perdition_stops_while_a_module_hangs(
    perditions: Perditions, clients: OpenClients, odd: None
) -> None:
    """perdition does not wait for it."""
    proxy = perditions.start("imap4", *FEW)
    try_to_log_in(clients, proxy, "hangs")
    until(lambda: authenticating(proxy), proxy.evidence)

    assert proxy.terminate() == 0, proxy.evidence()
    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", SOON)


@pytest.mark.parametrize("user", ["aborts", "breaks", "leaves"])
def test_crashing_module_fails_only_its_own_login(
    user: str, perditions: Perditions, clients: OpenClients, odd: None
) -> None:
    """Only that login fails; the helper goes on."""
    with IdleServer() as server:
        proxy = perditions.start("imap4", *FEW, "-s", server.name)
        helper = helper_of(proxy).pid

        connection = try_to_log_in(clients, proxy, user)
        line = auth_line(proxy, connection)

        assert line.endswith(UNAVAILABLE), line
        assert not server.was_contacted(), f"{user} is let in"
        assert helper_of(proxy).pid == helper, proxy.evidence()
    proxy = perditions.start("imap4", *FEW)
    clients.log_in(proxy).use()


def test_missing_service_file_fails_logins(
    perditions: Perditions, clients: OpenClients, pam_service: Path
) -> None:
    """PAM's service `other` decides; with neither, all logins fail."""
    with saved(OTHER) as other:
        pam_service.unlink(missing_ok=True)
        other.write_text("auth required pam_deny.so\naccount required pam_deny.so\n")
        proxy = perditions.start("imap4", *FEW)
        denied = try_to_log_in(clients, proxy, "joe")
        assert "failed: local authentication failure" in auth_line(proxy, denied)

        other.unlink()
        denied = try_to_log_in(clients, proxy, "joe")
        assert "failed: local authentication failure" in auth_line(proxy, denied)

        other.write_text("auth required pam_permit.so\naccount required pam_permit.so\n")
        clients.log_in(proxy).use()


def test_missing_module_fails_logins(
    perditions: Perditions, clients: OpenClients, pam_service: Path
) -> None:
    """With an error in the service file all logins fail, and the log says why."""
    pam_service.write_text("auth required pam_no_such.so\naccount required pam_permit.so\n")
    proxy = perditions.start("imap4", *FEW)

    connection = try_to_log_in(clients, proxy, "joe")

    assert "failed: local authentication failure" in auth_line(proxy, connection)


# Death of the helper.


def test_login_fails_if_the_helper_dies(
    perditions: Perditions, clients: OpenClients, gate: Path
) -> None:
    """That login fails temporarily; the new helper answers the next."""
    proxy = perditions.start("imap4", *FEW)
    connection = try_to_log_in(clients, proxy, "joe")
    until(lambda: waiting(gate), proxy.evidence)
    helper = helper_of(proxy)

    os.kill(helper.pid, signal.SIGKILL)

    assert auth_line(proxy, connection).endswith(UNAVAILABLE), proxy.evidence()
    gate.touch()
    until(
        lambda: (found := helper_or_none(proxy)) and found.pid != helper.pid,
        lambda: f"another helper\n{proxy.evidence()}",
    )
    clients.log_in(proxy).use()
    until(lambda: not authenticating(proxy), proxy.evidence)


def test_helper_runs_only_if_needed(perditions: Perditions) -> None:
    """Without local authentication and certificates, no process stays root."""
    proxy = perditions.start("imap4", "--workers", "2")

    assert [each.uid for each in proxy.processes() if each.uid == 0] == [], proxy.evidence()


# inetd mode.


def inetd_perdition(perditions: Perditions, folder: Path, protocol: str) -> ProgramOnSocket:
    """perdition for one client, with local authentication."""
    options = ("-f", "", "-F", str(folder / "log"), "-a", "--authenticate_timeout", "3")
    return ProgramOnSocket(
        BIN / f"perdition.{protocol}", *perditions.server_options(protocol), *options
    )


@every_protocol
def test_inetd_mode_verifies_passwords(
    protocol: str, perditions: Perditions, folder: Path, unix: None
) -> None:
    """As in any other mode; the process of the session is not root, and none is left."""
    with inetd_perdition(perditions, folder, protocol) as served:
        give_credentials(served.client, protocol, ACCOUNT)
        served.client.read_until(welcome(protocol))
        assert "0" not in ProcessInfo(served.process.pid).ids()[0]
        served.client.close()
        assert served.status() == 0, (folder / "log").read_text()


@pytest.mark.slow
def test_inetd_mode_refuses_a_wrong_password(
    perditions: Perditions, folder: Path, unix: None
) -> None:
    with inetd_perdition(perditions, folder, "imap4") as served:
        give_credentials(served.client, "imap4", ACCOUNT, "wrong")
        served.client.read_until(rb"a NO.*\r\n")
        served.client.close()
        assert served.status() == 0, (folder / "log").read_text()
    assert REFUSED in (folder / "log").read_text()


@pytest.mark.slow
def test_output_of_a_module_does_not_reach_inetds_client(
    perditions: Perditions, folder: Path, odd: None
) -> None:
    """A module's standard output and error do not reach the client."""
    with inetd_perdition(perditions, folder, "imap4") as served:
        give_credentials(served.client, "imap4", "chatters")
        line = served.client.read_line()
    assert re.match(rb"a NO|\* ", line), f"the client gets {line!r}"


def test_nothing_is_left_of_a_killed_inetd_process(
    perditions: Perditions, folder: Path, odd: None
) -> None:
    """The connection is closed, and no process is left."""
    with inetd_perdition(perditions, folder, "imap4") as served:
        give_credentials(served.client, "imap4", "hangs")

        def asked() -> list[ProcessInfo]:
            everybody = descendants(served.process.pid)
            return [each for each in everybody if each.title.endswith("authenticating")]

        until(asked, lambda: f"PAM is asked: {descendants(served.process.pid)}")
        everybody = descendants(served.process.pid)
        os.kill(served.process.pid, signal.SIGKILL)
        served.client.read_to_end()
        until(
            lambda: not [each for each in everybody if each.is_alive()],
            lambda: f"left: {everybody}",
            deadline=DEADLINE,
        )
