"""The daemon: how it leaves its terminal, whose it is, what it logs, and how it ends."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.process.conftest import PASSWORD, Clients, Started, fails, needs_root, refused
from tests.support.daemon import Daemon
from tests.support.family import Member
from tests.support.processes import listening
from tests.support.proxy import BIN, Proxy
from tests.support.real_server import RealServer
from tests.support.saved import saved
from tests.support.session import DIALOGUES
from tests.support.syslog import Syslog
from tests.support.wait import until

pytestmark = needs_root

CONFIGURATION = Path("/etc/perdition")
RUN = Path("/var/run")
FURTHER_GROUPS = ("setpriv", "--groups", "4,24")
FEW = ("--workers", "2")
WITH_HELPER = (*FEW, "-a")


# Off the terminal.


def test_detaches(started: Started) -> None:
    """The command comes back with 0 and in silence; the master has nothing left of its caller."""
    daemon = started.daemon("imap4", *WITH_HELPER)

    assert (daemon.parent.stdout, daemon.parent.stderr) == ("", "")
    assert daemon.pid != os.getpid()
    for member in daemon.members():
        assert os.getsid(member.pid) != os.getsid(0), member
        assert os.getpgid(member.pid) != os.getpgid(0), member
        assert [member.leads_to(number) for number in range(3)] == ["/dev/null"] * 3, member
        assert member.folder == "/", member
        assert member.umask & 0o022 == 0o022, f"{member} makes files that others may write"
        assert member.core_limits() == ["0", "0"], f"{member} may leave a core with passwords"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_starts_without_standard_streams(closed: str, started: Started, clients: Clients) -> None:
    """As some that start daemons do; no socket of ours takes the place of what is closed."""
    daemon = started.prepared("imap4", *FEW)
    daemon.command[:0] = ["sh", "-c", f'exec "$@" {closed}', "sh"]

    started.enter(daemon)

    for member in daemon.members():
        assert {member.leads_to(number) for number in range(3)} == {"/dev/null"}
    clients.log_in(daemon).use()


def test_master_cannot_get_a_terminal(started: Started) -> None:
    """It leads no session: opening a terminal does not make that its own."""
    daemon = started.daemon("imap4", *FEW)

    assert os.getsid(daemon.pid) != daemon.pid


def test_titles(started: Started, clients: Clients) -> None:
    """`ps` tells what each process is for, and how many sessions a worker has."""
    daemon = started.daemon("imap4", *WITH_HELPER)

    def titles() -> list[str]:
        return sorted(re.sub(r"^perdition\.imap4: ", "", each.title) for each in daemon.processes())

    expected = ["helper", "keeper", "master", "worker 1, 0 sessions", "worker 2, 0 sessions"]
    until(lambda: titles() == expected, lambda: f"{expected}, not {titles()}")

    client = clients.connect(daemon)
    client.read_until(DIALOGUES["imap4"].greeting)
    until(lambda: any(title.endswith(", 1 session") for title in titles()), lambda: str(titles()))


# The pid file.


def test_pid_file_is_there_when_the_command_comes_back(started: Started) -> None:
    """Whoever starts perdition can at once tell what to stop."""
    daemon = started.prepared("imap4", *FEW)
    parent = daemon.launch()
    at_once = daemon.written_pid()
    with daemon_of(daemon):
        assert parent.returncode == 0, daemon.evidence()
        assert at_once == daemon.pid


class daemon_of:  # noqa: N801 - it reads like a function
    """A daemon that was launched already, as a context: it is ended like any other."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def __enter__(self) -> None:
        self._daemon.adopt()

    def __exit__(self, *_: object) -> None:
        self._daemon.__exit__(None, None, None)


def test_pid_file(started: Started) -> None:
    """The master's number, for the user that it runs as; gone with the master."""
    daemon = started.daemon("imap4", *FEW, "-u", "daemon", "-g", "daemon")
    owner = pwd.getpwnam("daemon")

    assert daemon.pid_file.read_text().strip() == str(daemon.pid)
    assert "master" in Member(daemon.pid).title
    for path, mode in ((daemon.pid_file, 0o660), (daemon.pid_file.parent, 0o750)):
        found = path.stat()
        assert found.st_mode & 0o7777 == mode, f"{path}: {found.st_mode:o}"
        assert (found.st_uid, found.st_gid) == (owner.pw_uid, owner.pw_gid), path

    assert daemon.terminate() == 0, daemon.evidence()
    assert not daemon.pid_file.exists()


def test_default_pid_file(started: Started) -> None:
    """Without the option: /var/run, a folder and a file that are called like the program."""
    expected = RUN / "perdition.imap4" / "perdition.imap4.pid"
    with saved(expected.parent):
        shutil.rmtree(expected.parent, ignore_errors=True)
        daemon = started.prepared("imap4", *FEW, pid_file=expected)
        place = daemon.command.index("--pid_file")
        del daemon.command[place : place + 2]
        with daemon:
            assert expected.read_text().strip() == str(daemon.pid)
        assert not expected.exists()


def test_no_pid_file(started: Started, folder: Path) -> None:
    """An empty name means none."""
    before = set(folder.rglob("*.pid"))
    proxy = started.foreground("imap4", *FEW, "--pid_file", "")

    assert set(folder.rglob("*.pid")) == before == set(), proxy.evidence()


def test_stale_pid_file_is_replaced(started: Started) -> None:
    """What a master that was killed has left stops nobody."""
    with subprocess.Popen(["true"]) as dead:
        pass
    daemon = started.prepared("imap4", *FEW)
    daemon.pid_file.parent.mkdir()
    daemon.pid_file.write_text(f"{dead.pid}\n")

    parent = daemon.launch()
    assert parent.returncode == 0, daemon.evidence()
    until(lambda: daemon.written_pid() != dead.pid, daemon.evidence)
    with daemon_of(daemon):
        assert "perdition" in Member(daemon.pid).title


def test_second_master_is_refused(started: Started, clients: Clients) -> None:
    """It says so and ends; the first one and its pid file are as they were."""
    first = started.daemon("imap4", *FEW)
    second = started.prepared("imap4", *FEW, pid_file=first.pid_file)

    complaint = expect_refusal(second)

    assert str(first.pid) in complaint
    assert first.written_pid() == first.pid
    clients.log_in(first).use()


@pytest.mark.parametrize("content", ["", "\n", "perdition\n"])
def test_pid_file_without_a_number_is_refused(content: str, started: Started) -> None:
    """It may be somebody's who is just starting: it is left as it is."""
    daemon = started.prepared("imap4", *FEW)
    daemon.pid_file.parent.mkdir()
    daemon.pid_file.write_text(content)

    assert str(daemon.pid_file) in expect_refusal(daemon)
    assert daemon.pid_file.read_text() == content


def test_pipe_in_the_place_of_the_pid_file(started: Started) -> None:
    """Who may write there cannot have root wait for ever at the next start."""
    daemon = started.prepared("imap4", *FEW)
    daemon.pid_file.parent.mkdir()
    os.mkfifo(daemon.pid_file)

    assert "this is no file" in expect_refusal(daemon)


def test_pid_file_must_be_absolute(started: Started) -> None:
    """The daemon's folder is /, which nobody means."""
    daemon = started.prepared("imap4", *FEW, pid_file=Path("run/perdition.pid"))

    assert "run/perdition.pid" in expect_refusal(daemon)


def expect_refusal(daemon: Daemon) -> str:
    """It does not start: a status that is not 0, and one line on standard error, which it gives."""
    parent = daemon.launch()
    assert parent.returncode > 0, daemon.evidence()
    assert parent.stdout == "", daemon.evidence()
    [line] = parent.stderr.splitlines()
    assert line.startswith(f"{daemon.name}: "), line
    return line


# Whose it is.


@pytest.mark.parametrize(
    ("user", "group"), [("nobody", "nogroup"), ("daemon", "bin"), ("12345", "23456")]
)
def test_user_and_group(user: str, group: str, started: Started, pam_permits: None) -> None:
    """By name or number: nobody but keeper and helper is root, nobody has further groups."""
    daemon = started.prepared("imap4", *WITH_HELPER, "-u", user, "-g", group)
    daemon.command[:0] = FURTHER_GROUPS
    uid, gid = numbers(user, group)
    with daemon:
        members = daemon.members()
        assert len(members) == 5, daemon.evidence()
        for member in members:
            uids, gids, _ = member.ids()
            privileged = member.title.endswith((": keeper", ": helper"))
            assert uids == {"0" if privileged else uid}, f"{member}: {uids}"
            assert gids == {"0" if privileged else gid}, f"{member}: {gids}"
            if ": worker " in member.title:
                assert member.status("NoNewPrivs") == ["1"], f"{member} may gain rights"
        for member in members:
            _, _, further = member.ids()
            assert not further, f"{member} has the groups {further} of whoever started it"


def numbers(user: str, group: str) -> tuple[str, str]:
    """What the system has for these names."""
    if user.isdecimal():
        return user, group
    shown = subprocess.run(
        ["getent", "group", group], capture_output=True, text=True, check=True
    ).stdout
    return str(pwd.getpwnam(user).pw_uid), shown.split(":")[2]


def test_ordinary_user(started: Started, folder: Path, clients: Clients) -> None:
    """On a high port no root is needed: all processes are that user's."""
    user = pwd.getpwnam("daemon")
    os.chown(folder, user.pw_uid, user.pw_gid)
    daemon = started.prepared("imap4", *FEW)
    daemon.command[:0] = as_user(user)
    with daemon:
        clients.log_in(daemon).use()
        for member in daemon.members():
            uids, _, _ = member.ids()
            assert uids == {str(user.pw_uid)}, member
        assert daemon.terminate() == 0, daemon.evidence()
    assert not daemon.pid_file.exists()


def test_nobody_looks_into_a_process(started: Started, folder: Path) -> None:
    """Passwords are in all of them: the system has their memory for root, and makes no core of it.

    Not even for a program that handles cores, which no limit keeps from it.
    """
    user = pwd.getpwnam("daemon")
    os.chown(folder, user.pw_uid, user.pw_gid)
    daemon = started.prepared("imap4", *WITH_HELPER)
    daemon.command[:0] = as_user(user)
    with daemon:
        members = daemon.members()
        assert len(members) == 5, daemon.evidence()
        for member in members:
            owner = Path("/proc", str(member.pid), "mem").stat().st_uid
            assert owner == 0, f"{member} is open to {owner}"


def test_ordinary_user_needs_no_pid_file(started: Started, folder: Path) -> None:
    """Where the default place is not writable it goes without one, and says so in the log."""
    user = pwd.getpwnam("daemon")
    os.chown(folder, user.pw_uid, user.pw_gid)
    proxy = Proxy("imap4", folder, *started.target("imap4"), *FEW)
    place = proxy.command.index("--pid_file")
    del proxy.command[place : place + 2]
    proxy.command[:0] = as_user(user)
    with proxy:
        proxy.wait_for_log("no pid file: ")


def test_ordinary_user_cannot_become_another(started: Started, folder: Path) -> None:
    """It is refused, not ignored."""
    user = pwd.getpwnam("daemon")
    os.chown(folder, user.pw_uid, user.pw_gid)
    daemon = started.prepared("imap4", *FEW, "-u", "bin")
    daemon.command[:0] = as_user(user)

    assert "bin" in expect_refusal(daemon)


def as_user(user: pwd.struct_passwd) -> tuple[str, ...]:
    """Words that have the rest of a command run as that user."""
    return (
        *("setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid)),
        "--clear-groups",
    )


# How it ends.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_with_open_sessions(
    number: signal.Signals, started: Started, clients: Clients
) -> None:
    """Clients see the end, the log has their closing lines, no pid file stays; status 0."""
    daemon = started.daemon("imap4", *FEW)
    sessions = [clients.log_in(daemon) for _ in range(3)]
    greeted = clients.connect(daemon)
    greeted.read_until(DIALOGUES["imap4"].greeting)

    os.kill(daemon.pid, number)

    assert daemon.wait() == 0, daemon.evidence()
    for each in (*sessions, greeted):
        each.read_to_end()
        daemon.wait_for_log(f"Close: {each.own_address}->")
    assert not daemon.pid_file.exists()
    assert not daemon.processes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_drains(number: signal.Signals, started: Started, clients: Clients) -> None:
    """With time for it, open sessions go on while nobody new gets in; the last one ends it."""
    daemon = started.daemon("imap4", *FEW, "--drain_timeout", "3600")
    sessions = [clients.log_in(daemon) for _ in range(3)]

    os.kill(daemon.pid, number)
    until(lambda: not listening(daemon.port), daemon.evidence)

    assert refused(daemon.address)
    for each in sessions:
        each.use()
        each.log_out()
    assert daemon.wait() == 0, daemon.evidence()
    assert not daemon.pid_file.exists()


def test_sigquit_waits_without_a_limit(started: Started, clients: Clients) -> None:
    """No drain_timeout is needed for it; a SIGTERM then ends the rest."""
    daemon = started.daemon("imap4", *FEW)
    session = clients.log_in(daemon)

    os.kill(daemon.pid, signal.SIGQUIT)
    until(lambda: not listening(daemon.port), daemon.evidence)
    session.use()

    assert daemon.terminate() == 0, daemon.evidence()
    session.read_to_end()
    daemon.wait_for_log(f"Close: {session.own_address}->")


def test_drain_timeout_is_a_limit(started: Started, clients: Clients) -> None:
    """A session that stays is ended then, with its closing line and without an error."""
    daemon = started.daemon("imap4", *FEW, "--drain_timeout", "1")
    session = clients.log_in(daemon)

    assert daemon.terminate() == 0, daemon.evidence()

    session.read_to_end()
    daemon.wait_for_log(f"Close: {session.own_address}->")
    assert not daemon.logged("killed"), daemon.evidence()


def test_sigterm_to_all_processes(started: Started, clients: Clients, pam_permits: None) -> None:
    """As systemd stops a service: sessions have their time, and nothing looks like a fault."""
    daemon = started.daemon("imap4", *WITH_HELPER, "--drain_timeout", "3600")
    session = clients.log_in(daemon)

    signal_all(daemon, signal.SIGTERM)
    until(lambda: not listening(daemon.port), daemon.evidence)
    session.use()
    session.log_out()

    assert daemon.wait() == 0, daemon.evidence()
    assert not daemon.logged("died"), daemon.evidence()


def test_sighup_to_all_processes(started: Started, clients: Clients, pam_permits: None) -> None:
    """As `killall -HUP` does: it is a reload, and afterwards logins are as before."""
    daemon = started.daemon("imap4", *WITH_HELPER)
    before = {member.pid for member in daemon.members()}

    signal_all(daemon, signal.SIGHUP)
    clients.log_in(daemon).use()

    assert {member.pid for member in daemon.members()} == before, daemon.evidence()
    assert not daemon.logged("died"), daemon.evidence()


def test_sighups_that_come_as_one(started: Started, clients: Clients, folder: Path) -> None:
    """A worker that was busy meanwhile takes up the latest options."""
    configuration = folder / "perdition.conf"
    configuration.write_text("ok_line one\n")
    proxy = started.foreground("imap4", "--workers", "1", "-f", configuration)
    clients.log_in(proxy)
    [worker] = proxy.workers()
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        for count, line in enumerate(("two", "three"), 1):
            configuration.write_text(f"ok_line {line}\n")
            os.kill(proxy.pid, signal.SIGHUP)
            proxy.wait_for_log("SIGHUP: configuration", count)
    finally:
        os.kill(worker.pid, signal.SIGCONT)

    until(lambda: hears(proxy, clients, b"three"), proxy.evidence)


def test_configuration_that_is_for_root_alone(
    started: Started, clients: Clients, folder: Path
) -> None:
    """It may hold a popmap's password, and is read again at SIGHUP all the same."""
    configuration = folder / "perdition.conf"
    configuration.write_text("ok_line one\n")
    configuration.chmod(0o640)
    daemon = started.daemon("imap4", *FEW, "-f", configuration)
    configuration.write_text("ok_line two\n")

    os.kill(daemon.pid, signal.SIGHUP)

    daemon.wait_for_log("SIGHUP: configuration")
    until(lambda: hears(daemon, clients, b"two"), daemon.evidence)


@pytest.mark.parametrize(
    ("kind", "content"), [("gdbm", None), ("posix_regex", None), ("posix_regex", "joe( nowhere")]
)
def test_popmap_that_cannot_be_asked_leaves_all_as_it_was(
    kind: str, content: str | None, started: Started, clients: Clients, folder: Path
) -> None:
    """A mistake in its name, or in what is there, is found out at SIGHUP, not at the next login."""
    configuration = folder / "perdition.conf"
    configuration.write_text("map_library ''\n")
    target = ("-s", started.target("imap4")[-1])
    proxy = Proxy("imap4", folder, *FEW, *target, "-f", configuration)
    with proxy:
        popmap = folder / "popmap"
        if content is not None:
            popmap.write_text(content)
        configuration.write_text(f"map_library {kind}\nmap_library_opt {popmap}\n")

        os.kill(proxy.pid, signal.SIGHUP)

        proxy.wait_for_log(f"configuration unchanged: popmap {popmap}: ")
        clients.log_in(proxy).use()


def hears(proxy: Proxy, clients: Clients, word: bytes) -> bool:
    """Whether a client that logs in now is told a word."""
    with closing(clients.connect(proxy)) as wire:
        wire.read_until(DIALOGUES["imap4"].greeting)
        wire.send(f"a LOGIN joe {PASSWORD}\r\n".encode())
        return word in wire.read_until(rb"(?m)^a OK.*\r\n")


def test_sighup_right_at_the_start(started: Started, clients: Clients) -> None:
    """It may come before anybody is ready for it, and then kills nobody either."""
    daemon = started.prepared("imap4", *FEW)
    parent = daemon.launch()
    assert parent.returncode == 0, daemon.evidence()
    pid = until(daemon.written_pid, daemon.evidence)
    for _ in range(50):
        os.kill(pid, signal.SIGHUP)
    with daemon_of(daemon):
        clients.log_in(daemon).use()
        assert not daemon.logged("died"), daemon.evidence()


def test_hang_ups_while_it_starts(started: Started, clients: Clients) -> None:
    """The start does not fail of them, and no worker dies that has hardly begun."""
    for _ in range(3):
        daemon = started.prepared("imap4", *FEW)
        over = threading.Event()
        with ThreadPoolExecutor() as threads:
            hang_ups = threads.submit(hang_up_until, over, daemon)
            try:
                assert daemon.launch().returncode == 0, daemon.evidence()
            finally:
                over.set()
        assert hang_ups.result() > 0
        with daemon_of(daemon):
            clients.log_in(daemon).use()
            assert not daemon.logged("died"), daemon.evidence()
            assert daemon.terminate() == 0


def hang_up_until(over: threading.Event, daemon: Daemon) -> int:
    """Send SIGHUP to the master again and again, as soon as it can be found; count them."""
    sent = 0
    while not over.is_set():
        if pid := daemon.written_pid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
                sent += 1
    return sent


def signal_all(daemon: Daemon, number: signal.Signals) -> None:
    """Send a signal to every process, the master last."""
    for member in sorted(daemon.members(), key=lambda each: each.pid, reverse=True):
        os.kill(member.pid, number)


# Where it logs.


def test_log_that_is_moved_away(started: Started, clients: Clients) -> None:
    """logrotate's create, with the old file's owner and mode: later lines are in the new one."""
    daemon = started.daemon("imap4", *FEW)
    clients.log_in(daemon).log_out()
    daemon.wait_for_log("Close: ")
    old = daemon.log.rename(daemon.log.with_suffix(".1"))
    daemon.log.touch()
    os.chown(daemon.log, old.stat().st_uid, old.stat().st_gid)
    daemon.log.chmod(old.stat().st_mode & 0o7777)

    os.kill(daemon.pid, signal.SIGHUP)

    expect_log_goes_on(daemon, clients, old)


def test_link_in_the_place_of_the_log(started: Started, folder: Path) -> None:
    """Who may write to the log's directory cannot have another file of root's given away."""
    target = folder / "of-root"
    target.write_text("secret\n")
    logs = folder / "logs"
    logs.mkdir()
    link = logs / "log"
    link.symlink_to(target)
    shutil.chown(logs, "nobody")

    daemon = started.prepared("imap4", *FEW, "-F", link)

    assert daemon.launch().returncode == os.EX_USAGE
    assert f"log_facility {link}: " in daemon.parent.stderr
    assert target.read_text() == "secret\n"
    assert target.stat().st_uid == 0


def test_log_that_is_no_file_keeps_its_owner(started: Started, folder: Path) -> None:
    """A pipe or a device such as /dev/null may be there for others, too."""
    pipe = folder / "pipe"
    os.mkfifo(pipe, 0o600)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        started.daemon("imap4", *FEW, "-F", pipe)
        assert b"Starting perdition" in os.read(reader, 1000)
    finally:
        os.close(reader)
    assert pipe.stat().st_uid == 0


def test_log_that_is_moved_away_for_the_daemons_user(started: Started, clients: Clients) -> None:
    """The same, with a new file that belongs to the user that perdition runs as."""
    daemon = started.daemon("imap4", *FEW, "-u", "daemon")
    clients.log_in(daemon).log_out()
    daemon.wait_for_log("Close: ")
    old = daemon.log.rename(daemon.log.with_suffix(".1"))
    daemon.log.touch()
    shutil.chown(daemon.log, "daemon")

    os.kill(daemon.pid, signal.SIGHUP)

    expect_log_goes_on(daemon, clients, old)


def expect_log_goes_on(daemon: Daemon, clients: Clients, old: Path) -> None:
    """Master and workers log into the new file: sessions until each worker was seen to."""

    def seen() -> set[str]:
        clients.log_in(daemon).log_out()
        lines = daemon.logged("Close: ")
        return {found[1] for line in lines if (found := re.search(r"\[(\d+)\]: ", line))}

    workers = {str(worker.pid) for worker in daemon.workers()}
    until(
        lambda: seen() == workers,
        lambda: f"closing lines of {workers}\n{daemon.evidence()}\nold:\n{old.read_text()}",
        deadline=5,
    )


def test_log_that_is_moved_away_is_let_go(started: Started) -> None:
    """Or the disk that it is on stays full, also in front of a perdition in the foreground."""
    proxy = started.foreground("imap4", *FEW)
    old = proxy.log.rename(proxy.log.with_suffix(".1"))
    proxy.log.touch()
    shutil.chown(proxy.log, "nobody")

    os.kill(proxy.pid, signal.SIGHUP)

    until(
        lambda: not [each for each in proxy.processes() if Member(each.pid).holds(old)],
        lambda: f"nobody holds {old}\n{proxy.evidence()}",
    )


def test_log_that_is_emptied(started: Started, clients: Clients) -> None:
    """logrotate's copytruncate: later lines begin at the beginning of the file."""
    daemon = started.daemon("imap4", *FEW)
    clients.log_in(daemon).log_out()
    daemon.wait_for_log("Close: ")
    with daemon.log.open("r+b") as log:
        log.truncate(0)

    os.kill(daemon.pid, signal.SIGHUP)
    clients.log_in(daemon).log_out()

    daemon.wait_for_log("Close: ")
    assert b"\0" not in daemon.log.read_bytes()


def test_log_file_is_private(started: Started) -> None:
    """Who reads whose mail is nobody's business."""
    daemon = started.daemon("imap4", *FEW)

    assert daemon.log.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("facility", ["mail", "local3"])
def test_syslog(facility: str, started: Started, syslog: Syslog, clients: Clients) -> None:
    """Each line with facility, priority, the program's name and the number of who says it."""
    daemon = started.daemon("imap4", *FEW, "-F", facility)
    session = clients.log_in(daemon)
    session.log_out()

    start = syslog.wait_for(r"^Starting perdition .*protocol=IMAP4")
    connect = syslog.wait_for(rf"^Connect: {session.own_address}->")
    close = syslog.wait_for(rf"^Close: {session.own_address}->")
    assert start.pid == daemon.pid
    assert connect.pid in {worker.pid for worker in daemon.workers()}
    for record in (start, connect, close):
        assert (record.facility, record.name) == (facility, "perdition.imap4"), record
        assert record.priority in ("info", "notice"), record


def test_syslog_is_the_default(started: Started, syslog: Syslog, clients: Clients) -> None:
    """Without an option: facility mail."""
    daemon = started.prepared("imap4", *FEW)
    place = daemon.command.index("-F")
    del daemon.command[place : place + 2]
    with daemon:
        session = clients.log_in(daemon)
        record = syslog.wait_for(rf"^Connect: {session.own_address}->")
    assert record.facility == "mail"


def test_syslog_from_before_the_detaching(
    started: Started, syslog: Syslog, clients: Clients, folder: Path
) -> None:
    """A remark about the configuration file is logged, and so is all that comes later."""
    configuration = folder / "perdition.conf"
    configuration.write_text("ok_line\n")
    daemon = started.daemon("imap4", *FEW, "-F", "mail", "-f", configuration)
    session = clients.log_in(daemon)

    remark = syslog.wait_for("ok_line has no value")
    assert remark.priority == "warning"
    syslog.wait_for("^Starting perdition ")
    syslog.wait_for(rf"^Connect: {session.own_address}->")
    os.kill(daemon.pid, signal.SIGHUP)
    clients.log_in(daemon).log_out()
    assert daemon.terminate() == 0, daemon.evidence()


def test_syslog_that_is_restarted(started: Started, syslog: Syslog, clients: Clients) -> None:
    """Later lines go to the new syslogd, without a signal."""
    daemon = started.daemon("imap4", "--workers", "1", "-F", "mail")
    first = clients.log_in(daemon)
    syslog.wait_for(rf"^Connect: {first.own_address}->")

    syslog.restart()
    second = clients.log_in(daemon)

    syslog.wait_for(rf"^Auth: {second.own_address}->")


def test_syslog_that_does_not_read_stops_no_session(started: Started, clients: Clients) -> None:
    """Its queue is full soon; sessions go on, and so does the end."""
    if reason := Syslog.taken():
        pytest.skip(reason)
    with Syslog(reads=False):
        daemon = started.daemon("imap4", "--workers", "1", "-F", "mail", "-d", "-C")
        for _ in range(100):
            clients.log_in(daemon).log_out()
        assert daemon.terminate() == 0, daemon.evidence()


def test_no_syslog_stops_no_session(started: Started, clients: Clients) -> None:
    """As in a container: there is no /dev/log."""
    if reason := Syslog.taken():
        pytest.skip(reason)
    daemon = started.daemon("imap4", *FEW, "-F", "mail")

    clients.log_in(daemon).log_out()

    assert daemon.terminate() == 0, daemon.evidence()


@pytest.mark.parametrize(("facility", "descriptor"), [("-", 1), ("+", 2)])
def test_log_on_the_terminal(
    facility: str, descriptor: int, started: Started, folder: Path, clients: Clients
) -> None:
    """Standard output or error has the log and nothing else; perdition stays in front."""
    daemon = started.prepared("imap4", *FEW, "-F", facility)
    files = folder / "output", folder / "error"
    with files[0].open("wb") as output, files[1].open("wb") as error:
        process = subprocess.Popen(daemon.command, stdout=output, stderr=error, stdin=0)
    told = files[descriptor - 1]
    try:
        until(lambda: listening(daemon.port), lambda: f"it listens\n{told.read_text()}")
        session = clients.log_in(daemon)
        session.log_out()
        until(
            lambda: re.search(rf"Close: {session.own_address}->", told.read_text()),
            lambda: f"a closing line\n{told.read_text()}",
        )
        assert process.poll() is None
    finally:
        process.terminate()
        status = process.wait()
    assert status == 0
    assert files[2 - descriptor].read_text() == ""


# How it does not start.


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--no_such_option",), id="unknown option"),
        pytest.param(("-Z",), id="unknown letter"),
        pytest.param(("--timeou=3",), id="abbreviated option"),
        pytest.param(("stray",), id="argument"),
        pytest.param(("-t", "soon"), id="bad number"),
        pytest.param(("-t",), id="missing value"),
        pytest.param(("-L", "-1"), id="negative number"),
        pytest.param(("-P", "smtp"), id="bad protocol"),
        pytest.param(("--ssl_mode", "maybe"), id="bad mode"),
        pytest.param(("-F", "mails"), id="bad facility"),
        pytest.param(("-F", "/no/such/folder/log"), id="bad log file"),
        pytest.param(("-f", "/no/such/perdition.conf"), id="no configuration file"),
        pytest.param(("-f", "/"), id="folder as configuration file"),
    ],
)
def test_mistake_in_the_options(options: tuple[str, ...], started: Started, syslog: Syslog) -> None:
    """One line on standard error and the same in a log; nothing starts."""
    daemon = started.prepared("imap4", *FEW, *options)

    complaint = expect_refusal(daemon)

    text = expect_in_a_log(complaint, daemon, syslog)
    assert options[-1].lstrip("-").partition("=")[0] in text, text
    assert not daemon.pid_file.exists()


def expect_in_a_log(complaint: str, daemon: Daemon, syslog: Syslog) -> str:
    """The file that -F names has the line or, while that may not be known, the system's log."""
    text = complaint.partition(": ")[2]
    if not daemon.logged(re.escape(text)):
        record = syslog.wait_for(f"^{re.escape(text)}$")
        assert (record.facility, record.priority) == ("mail", "err"), record
    return text


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("no_such_option 1", "no_such_option"),
        ("timeout soon", "soon"),
        ("ok_line 'open", "line 2"),
        ("u no-such-user-here", "no-such-user-here"),
    ],
)
def test_mistake_in_the_configuration_file(
    line: str, word: str, started: Started, syslog: Syslog, folder: Path
) -> None:
    """It is told where, in one line."""
    configuration = folder / "perdition.conf"
    configuration.write_text(f"# A comment.\n{line}\n")
    daemon = started.prepared("imap4", *FEW, "-f", configuration)

    assert word in expect_in_a_log(expect_refusal(daemon), daemon, syslog)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-u", "no-such-user-here"), id="user"),
        pytest.param(("-g", "no-such-group-here"), id="group"),
        pytest.param(("-M", "no-such-map-library"), id="popmap"),
        pytest.param(("-b", "192.0.2.1"), id="foreign address"),
        pytest.param(("-b", "127.0.0.1:no-such-port"), id="port"),
        pytest.param(("--pid_file", "/dev/null/perdition.pid"), id="pid file"),
        pytest.param(("--ssl_mode", "ssl_listen", "--ssl_cert_file", "/no/cert"), id="certificate"),
    ],
)
def test_what_is_not_there(options: tuple[str, ...], started: Started, syslog: Syslog) -> None:
    """One line on standard error and the same in a log; nothing starts."""
    daemon = started.prepared("imap4", *FEW, *options)

    complaint = expect_refusal(daemon)

    assert options[-1] in expect_in_a_log(complaint, daemon, syslog), complaint
    assert not daemon.pid_file.exists()


def test_port_in_use(started: Started, clients: Clients) -> None:
    """The second one is told before it detaches; the first goes on."""
    first = started.daemon("imap4", *FEW)
    second = started.prepared("pop3", *FEW, "-l", str(first.port))

    complaint = expect_refusal(second)

    assert str(first.port) in complaint
    assert second.logged(re.escape(complaint.partition(": ")[2])), second.evidence()
    clients.log_in(first).use()


def test_help_starts_nothing() -> None:
    """It tells the options and ends with 0."""
    told = subprocess.run(
        [BIN / "perdition.imap4", "--help"], capture_output=True, text=True, check=True
    )
    assert "--connection_limit" in told.stdout
    assert told.stderr == ""


# Where it is configured.


def test_configuration_file_is_found(started: Started, folder: Path) -> None:
    """<basename>.conf, then perdition.<protocol>.conf, then perdition.conf, then none."""
    with saved(CONFIGURATION):
        shutil.rmtree(CONFIGURATION, ignore_errors=True)
        CONFIGURATION.mkdir()
        files = [
            CONFIGURATION / f"{base}.conf"
            for base in ("perdition.imaps", "perdition.imap4s", "perdition")
        ]
        for path in files:
            path.write_text(f"ok_line by {path.name}\n")
        for path in files:
            assert ok_line_of(started, folder) == f"by {path.name}"
            path.unlink()
        assert ok_line_of(started, folder) == "You are so in"


def test_configuration_file_that_goes_away(
    started: Started, clients: Clients, folder: Path
) -> None:
    """The one that was found is read again, also in a folder of root's; without it all stays."""
    with saved(CONFIGURATION):
        shutil.rmtree(CONFIGURATION, ignore_errors=True)
        CONFIGURATION.mkdir(0o700)
        file = CONFIGURATION / "perdition.conf"
        file.write_text("ok_line one\n")
        with nowhere_configured(started, folder) as proxy:
            file.write_text("ok_line two\n")
            os.kill(proxy.pid, signal.SIGHUP)
            until(lambda: hears(proxy, clients, b"two"), proxy.evidence)

            file.unlink()
            os.kill(proxy.pid, signal.SIGHUP)
            proxy.wait_for_log(f"SIGHUP: nothing is changed: {file}: No such file")
            assert hears(proxy, clients, b"two")


def nowhere_configured(started: Started, folder: Path) -> Proxy:
    """A perdition.imaps that nothing tells where it is configured; it has not been started."""
    proxy = Proxy("imaps", folder, *started.target("imap4"), *FEW, "--ssl_mode", "none")
    place = proxy.command.index("-f")
    del proxy.command[place : place + 2]
    return proxy


def ok_line_of(started: Started, folder: Path) -> str:
    """What it logs of an option."""
    with nowhere_configured(started, folder) as proxy:
        [line] = proxy.wait_for_log("ok_line=")
    found = re.search(r'ok_line="([^"]*)"', line)
    assert found, line
    return found[1]


def test_command_line_goes_before_the_file(
    started: Started, folder: Path, server: RealServer
) -> None:
    """Whatever the order on the command line."""
    configuration = folder / "perdition.conf"
    configuration.write_text('ok_line "by the file"\ntimeout 77\n')
    proxy = started.foreground(
        "imap4", *FEW, "--ok_line", "by the command line", "-f", configuration
    )

    [line] = proxy.wait_for_log("ok_line=")
    assert 'ok_line="by the command line"' in line
    assert "timeout=77" in line


def test_unfinished_login_is_no_session(started: Started, clients: Clients) -> None:
    """Who hangs on without logging in is closed at the end as well."""
    daemon = started.daemon("imap4", *FEW)
    client = clients.connect(daemon)
    client.read_until(DIALOGUES["imap4"].greeting)

    assert daemon.terminate() == 0, daemon.evidence()
    assert fails(lambda: client.ask(b"a NOOP", rb"a OK"))
