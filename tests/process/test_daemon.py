"""The daemon: detaching, pid file, user, signals, log, configuration, and failed starts."""

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

from tests.process.conftest import PASSWORD, fails, needs_root
from tests.support.client_connection import PROTOCOLS, OpenClients
from tests.support.folders import BIN
from tests.support.perdition import PerditionDaemon, PerditionProcess, Perditions
from tests.support.processes import ProcessInfo, listening, refuses_connections
from tests.support.real_server import RealServer
from tests.support.saved import saved
from tests.support.syslog import Syslog
from tests.support.wait import until

pytestmark = needs_root

CONFIGURATION = Path("/etc/perdition")
RUN = Path("/var/run")
FURTHER_GROUPS = ("setpriv", "--groups", "4,24")
FEW = ("--workers", "2")
WITH_HELPER = (*FEW, "-a")


# Detaching.


def test_daemon_detaches_from_the_terminal(perditions: Perditions) -> None:
    """The command exits with 0 and without output; the master keeps nothing of its caller."""
    daemon = perditions.start_daemon("imap4", *WITH_HELPER)

    assert (daemon.parent.stdout, daemon.parent.stderr) == ("", "")
    assert daemon.pid != os.getpid()
    for process in daemon.processes():
        assert os.getsid(process.pid) != os.getsid(0), process
        assert os.getpgid(process.pid) != os.getpgid(0), process
        assert [process.descriptor_target(number) for number in range(3)] == ["/dev/null"] * 3, (
            process
        )
        assert process.working_directory == "/", process
        assert process.umask & 0o022 == 0o022, f"{process} makes files that others may write"
        assert process.core_limits() == ["0", "0"], f"{process} may leave a core with passwords"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_daemon_starts_without_standard_streams(
    closed: str, perditions: Perditions, clients: OpenClients
) -> None:
    """Some supervisors start daemons so; no socket gets descriptor 0, 1 or 2."""
    daemon = perditions.new_daemon("imap4", *FEW)
    daemon.command[:0] = ["sh", "-c", f'exec "$@" {closed}', "sh"]

    perditions.enter(daemon)

    for process in daemon.processes():
        assert {process.descriptor_target(number) for number in range(3)} == {"/dev/null"}
    clients.log_in(daemon).use()


def test_master_cannot_get_a_terminal(perditions: Perditions) -> None:
    """It is not a session leader: a terminal that it opens does not become its controlling one."""
    daemon = perditions.start_daemon("imap4", *FEW)

    assert os.getsid(daemon.pid) != daemon.pid


def test_titles_show_process_and_sessions(perditions: Perditions, clients: OpenClients) -> None:
    """`ps` shows each process's role and each worker's sessions."""
    daemon = perditions.start_daemon("imap4", *WITH_HELPER)

    def titles() -> list[str]:
        return sorted(re.sub(r"^perdition\.imap4: ", "", each.title) for each in daemon.processes())

    expected = [
        "helper",
        "helper supervisor",
        "master",
        "worker 1, 0 sessions",
        "worker 2, 0 sessions",
    ]
    until(lambda: titles() == expected, lambda: f"{expected}, not {titles()}")

    client = clients.connect(daemon)
    client.read_until(PROTOCOLS["imap4"].greeting)
    until(lambda: any(title.endswith(", 1 session") for title in titles()), lambda: str(titles()))


# The pid file.


def test_pid_file_is_written_before_the_command_exits(perditions: Perditions) -> None:
    """A script that starts perdition can read the pid at once."""
    daemon = perditions.new_daemon("imap4", *FEW)
    parent = daemon.launch()
    at_once = daemon.written_pid()
    with daemon.running():
        assert parent.returncode == 0, daemon.evidence()
        assert at_once == daemon.pid


def test_pid_file_exists_while_the_daemon_runs(perditions: Perditions) -> None:
    """The master's pid, in a file of the user that it runs as; removed at the end."""
    daemon = perditions.start_daemon("imap4", *FEW, "-u", "daemon", "-g", "daemon")
    owner = pwd.getpwnam("daemon")

    assert daemon.pid_file.read_text().strip() == str(daemon.pid)
    assert "master" in ProcessInfo(daemon.pid).title
    for path, mode in ((daemon.pid_file, 0o660), (daemon.pid_file.parent, 0o750)):
        found = path.stat()
        assert found.st_mode & 0o7777 == mode, f"{path}: {found.st_mode:o}"
        assert (found.st_uid, found.st_gid) == (owner.pw_uid, owner.pw_gid), path

    assert daemon.terminate() == 0, daemon.evidence()
    assert not daemon.pid_file.exists()


def test_default_pid_file_is_named_after_the_instance(perditions: Perditions) -> None:
    """Without the option: /var/run/NAME/NAME.pid, NAME being the program's."""
    expected = RUN / "perdition.imap4" / "perdition.imap4.pid"
    with saved(expected.parent):
        shutil.rmtree(expected.parent, ignore_errors=True)
        daemon = perditions.new_daemon("imap4", *FEW, pid_file=expected)
        place = daemon.command.index("--pid_file")
        del daemon.command[place : place + 2]
        with daemon:
            assert expected.read_text().strip() == str(daemon.pid)
        assert not expected.exists()


def test_daemon_runs_without_a_pid_file(perditions: Perditions, folder: Path) -> None:
    """An empty name means none."""
    before = set(folder.rglob("*.pid"))
    proxy = perditions.start("imap4", *FEW, "--pid_file", "")

    assert set(folder.rglob("*.pid")) == before == set(), proxy.evidence()


def test_stale_pid_file_is_replaced(perditions: Perditions) -> None:
    """The file of a master that was killed does not prevent a start."""
    with subprocess.Popen(["true"]) as dead:
        pass
    daemon = perditions.new_daemon("imap4", *FEW)
    daemon.pid_file.parent.mkdir()
    daemon.pid_file.write_text(f"{dead.pid}\n")

    parent = daemon.launch()
    assert parent.returncode == 0, daemon.evidence()
    until(lambda: daemon.written_pid() != dead.pid, daemon.evidence)
    with daemon.running():
        assert "perdition" in ProcessInfo(daemon.pid).title


def test_second_master_is_refused(perditions: Perditions, clients: OpenClients) -> None:
    """The first master and its pid file stay as they are."""
    first = perditions.start_daemon("imap4", *FEW)
    second = perditions.new_daemon("imap4", *FEW, pid_file=first.pid_file)

    complaint = second.expect_refusal()

    assert str(first.pid) in complaint
    assert first.written_pid() == first.pid
    clients.log_in(first).use()


@pytest.mark.parametrize("content", ["", "\n", "perdition\n"])
def test_pid_file_without_a_number_is_refused(content: str, perditions: Perditions) -> None:
    """Another process may be about to write it: it is left alone."""
    daemon = perditions.new_daemon("imap4", *FEW)
    daemon.pid_file.parent.mkdir()
    daemon.pid_file.write_text(content)

    assert str(daemon.pid_file) in daemon.expect_refusal()
    assert daemon.pid_file.read_text() == content


def test_fifo_as_pid_file_is_refused(perditions: Perditions) -> None:
    """The user that owns the folder cannot block root's next start."""
    daemon = perditions.new_daemon("imap4", *FEW)
    daemon.pid_file.parent.mkdir()
    os.mkfifo(daemon.pid_file)

    assert "not a regular file" in daemon.expect_refusal()


def test_pid_file_must_be_absolute(perditions: Perditions) -> None:
    """The daemon's working directory is /, which no one means."""
    daemon = perditions.new_daemon("imap4", *FEW, pid_file=Path("run/perdition.pid"))

    assert "run/perdition.pid" in daemon.expect_refusal()


# User and group.


@pytest.mark.parametrize(
    ("user", "group"), [("nobody", "nogroup"), ("daemon", "bin"), ("12345", "23456")]
)
def test_daemon_runs_as_user_and_group(
    user: str, group: str, perditions: Perditions, pam_permits: None
) -> None:
    """By name or number: only the helper and its supervisor are root; no process has further
    groups.
    """
    daemon = perditions.new_daemon("imap4", *WITH_HELPER, "-u", user, "-g", group)
    daemon.command[:0] = FURTHER_GROUPS
    uid, gid = numbers(user, group)
    with daemon:
        processes = daemon.processes()
        assert len(processes) == 5, daemon.evidence()
        for process in processes:
            uids, gids, _ = process.ids()
            privileged = process.title.endswith((": helper supervisor", ": helper"))
            assert uids == {"0" if privileged else uid}, f"{process}: {uids}"
            assert gids == {"0" if privileged else gid}, f"{process}: {gids}"
            if ": worker " in process.title:
                assert process.status("NoNewPrivs") == ["1"], f"{process} may gain rights"
        for process in processes:
            _, _, further = process.ids()
            assert not further, f"{process} has the groups {further} of its caller"


def numbers(user: str, group: str) -> tuple[str, str]:
    """The numeric ids of these names."""
    if user.isdecimal():
        return user, group
    shown = subprocess.run(
        ["getent", "group", group], capture_output=True, text=True, check=True
    ).stdout
    return str(pwd.getpwnam(user).pw_uid), shown.split(":")[2]


def test_ordinary_user_can_run_a_daemon(
    perditions: Perditions, folder: Path, clients: OpenClients
) -> None:
    """A high port needs no root: all processes are that user's."""
    user = pwd.getpwnam("daemon")
    os.chown(folder, user.pw_uid, user.pw_gid)
    daemon = perditions.new_daemon("imap4", *FEW)
    daemon.command[:0] = as_user(user)
    with daemon:
        clients.log_in(daemon).use()
        for process in daemon.processes():
            uids, _, _ = process.ids()
            assert uids == {str(user.pw_uid)}, process
        assert daemon.terminate() == 0, daemon.evidence()
    assert not daemon.pid_file.exists()


def test_processes_are_not_dumpable(perditions: Perditions, folder: Path) -> None:
    """Passwords are in all of them: only root can read their memory, and no core is written, not
    even by a core handler, which ignores RLIMIT_CORE.
    """
    user = pwd.getpwnam("daemon")
    os.chown(folder, user.pw_uid, user.pw_gid)
    daemon = perditions.new_daemon("imap4", *WITH_HELPER)
    daemon.command[:0] = as_user(user)
    with daemon:
        processes = daemon.processes()
        assert len(processes) == 5, daemon.evidence()
        for process in processes:
            owner = Path("/proc", str(process.pid), "mem").stat().st_uid
            assert owner == 0, f"{process} is open to {owner}"


def test_ordinary_user_needs_no_pid_file(perditions: Perditions, folder: Path) -> None:
    """If the default folder is not writable, there is no pid file, and a log line."""
    user = pwd.getpwnam("daemon")
    os.chown(folder, user.pw_uid, user.pw_gid)
    proxy = PerditionProcess("imap4", folder, *perditions.server_options("imap4"), *FEW)
    place = proxy.command.index("--pid_file")
    del proxy.command[place : place + 2]
    proxy.command[:0] = as_user(user)
    with proxy:
        proxy.wait_for_log("running without a pid file: ")


def test_ordinary_user_cannot_become_another(perditions: Perditions, folder: Path) -> None:
    """The start fails."""
    user = pwd.getpwnam("daemon")
    os.chown(folder, user.pw_uid, user.pw_gid)
    daemon = perditions.new_daemon("imap4", *FEW, "-u", "bin")
    daemon.command[:0] = as_user(user)

    assert "bin" in daemon.expect_refusal()


def as_user(user: pwd.struct_passwd) -> tuple[str, ...]:
    """The beginning of a command that runs the rest as that user."""
    return (
        *("setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid)),
        "--clear-groups",
    )


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_stops_with_open_sessions(
    number: signal.Signals, perditions: Perditions, clients: OpenClients
) -> None:
    """Connections are closed, Close lines logged, the pid file removed; the status is 0."""
    daemon = perditions.start_daemon("imap4", *FEW)
    sessions = [clients.log_in(daemon) for _ in range(3)]
    greeted = clients.connect(daemon)
    greeted.read_until(PROTOCOLS["imap4"].greeting)

    os.kill(daemon.pid, number)

    assert daemon.wait() == 0, daemon.evidence()
    for each in (*sessions, greeted):
        each.read_to_end()
        daemon.wait_for_log(f"Close: {each.own_address}->")
    assert not daemon.pid_file.exists()
    assert not daemon.processes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_daemon_drains_after_sigterm(
    number: signal.Signals, perditions: Perditions, clients: OpenClients
) -> None:
    """With drain_timeout, open sessions go on and no client is accepted; the last one ends
    perdition.
    """
    daemon = perditions.start_daemon("imap4", *FEW, "--drain_timeout", "3600")
    sessions = [clients.log_in(daemon) for _ in range(3)]

    os.kill(daemon.pid, number)
    until(lambda: not listening(daemon.port), daemon.evidence)

    assert refuses_connections(daemon.address)
    for each in sessions:
        each.use()
        each.log_out()
    assert daemon.wait() == 0, daemon.evidence()
    assert not daemon.pid_file.exists()


def test_sigquit_waits_without_a_limit(perditions: Perditions, clients: OpenClients) -> None:
    """Without drain_timeout; a SIGTERM then ends the rest."""
    daemon = perditions.start_daemon("imap4", *FEW)
    session = clients.log_in(daemon)

    os.kill(daemon.pid, signal.SIGQUIT)
    until(lambda: not listening(daemon.port), daemon.evidence)
    session.use()

    assert daemon.terminate() == 0, daemon.evidence()
    session.read_to_end()
    daemon.wait_for_log(f"Close: {session.own_address}->")


def test_drain_timeout_is_a_limit(perditions: Perditions, clients: OpenClients) -> None:
    """A session beyond it is ended, with its Close line and without an error."""
    daemon = perditions.start_daemon("imap4", *FEW, "--drain_timeout", "1")
    session = clients.log_in(daemon)

    assert daemon.terminate() == 0, daemon.evidence()

    session.read_to_end()
    daemon.wait_for_log(f"Close: {session.own_address}->")
    assert not daemon.logged("killed"), daemon.evidence()


def test_daemon_stops_if_all_processes_get_sigterm(
    perditions: Perditions, clients: OpenClients, pam_permits: None
) -> None:
    """As systemd stops a service: sessions have their drain_timeout, and no death is logged."""
    daemon = perditions.start_daemon("imap4", *WITH_HELPER, "--drain_timeout", "3600")
    session = clients.log_in(daemon)

    signal_all(daemon, signal.SIGTERM)
    until(lambda: not listening(daemon.port), daemon.evidence)
    session.use()
    session.log_out()

    assert daemon.wait() == 0, daemon.evidence()
    assert not daemon.logged("died"), daemon.evidence()


def test_daemon_survives_sighup_to_all_processes(
    perditions: Perditions, clients: OpenClients, pam_permits: None
) -> None:
    """As `killall -HUP` does: one reload, and logins go on."""
    daemon = perditions.start_daemon("imap4", *WITH_HELPER)
    before = {process.pid for process in daemon.processes()}

    signal_all(daemon, signal.SIGHUP)
    clients.log_in(daemon).use()

    assert {process.pid for process in daemon.processes()} == before, daemon.evidence()
    assert not daemon.logged("died"), daemon.evidence()


def test_last_of_several_sighups_at_once_is_applied(
    perditions: Perditions, clients: OpenClients, folder: Path
) -> None:
    """A worker that missed the first reload has the options of the last."""
    configuration = folder / "perdition.conf"
    configuration.write_text("ok_line one\n")
    proxy = perditions.start("imap4", "--workers", "1", "-f", configuration)
    clients.log_in(proxy)
    [worker] = proxy.workers()
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        for count, line in enumerate(("two", "three"), 1):
            configuration.write_text(f"ok_line {line}\n")
            os.kill(proxy.pid, signal.SIGHUP)
            proxy.wait_for_log("configuration reloaded", count)
    finally:
        os.kill(worker.pid, signal.SIGCONT)

    until(lambda: hears(proxy, clients, b"three"), proxy.evidence)


def test_configuration_that_only_root_can_read_is_reloaded(
    perditions: Perditions, clients: OpenClients, folder: Path
) -> None:
    """It may have a popmap's password; SIGHUP reads it again all the same."""
    configuration = folder / "perdition.conf"
    configuration.write_text("ok_line one\n")
    configuration.chmod(0o640)
    daemon = perditions.start_daemon("imap4", *FEW, "-f", configuration)
    configuration.write_text("ok_line two\n")

    os.kill(daemon.pid, signal.SIGHUP)

    daemon.wait_for_log("configuration reloaded")
    until(lambda: hears(daemon, clients, b"two"), daemon.evidence)


@pytest.mark.parametrize(
    ("kind", "content"), [("gdbm", None), ("posix_regex", None), ("posix_regex", "joe( nowhere")]
)
def test_invalid_popmap_at_sighup_changes_nothing(
    kind: str, content: str | None, perditions: Perditions, clients: OpenClients, folder: Path
) -> None:
    """An error in its name or contents is found at SIGHUP, not at the next login."""
    configuration = folder / "perdition.conf"
    configuration.write_text("map_library ''\n")
    target = ("-s", perditions.server_options("imap4")[-1])
    proxy = PerditionProcess("imap4", folder, *FEW, *target, "-f", configuration)
    with proxy:
        popmap = folder / "popmap"
        if content is not None:
            popmap.write_text(content)
        configuration.write_text(f"map_library {kind}\nmap_library_opt {popmap}\n")

        os.kill(proxy.pid, signal.SIGHUP)

        proxy.wait_for_log(f"configuration unchanged: popmap {popmap}: ")
        clients.log_in(proxy).use()


def hears(proxy: PerditionProcess, clients: OpenClients, word: bytes) -> bool:
    """Whether the answer to a new client's login has a word."""
    with closing(clients.connect(proxy)) as connection:
        connection.read_until(PROTOCOLS["imap4"].greeting)
        connection.send(f"a LOGIN joe {PASSWORD}\r\n".encode())
        return word in connection.read_until(rb"(?m)^a OK.*\r\n")


def test_sighup_right_after_the_start_is_harmless(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Before the handlers are installed, it kills no process either."""
    daemon = perditions.new_daemon("imap4", *FEW)
    parent = daemon.launch()
    assert parent.returncode == 0, daemon.evidence()
    pid = until(daemon.written_pid, daemon.evidence)
    for _ in range(50):
        os.kill(pid, signal.SIGHUP)
    with daemon.running():
        clients.log_in(daemon).use()
        assert not daemon.logged("died"), daemon.evidence()


@pytest.mark.slow
def test_sighup_during_the_start_is_harmless(perditions: Perditions, clients: OpenClients) -> None:
    """The start succeeds, and no new worker dies."""
    for _ in range(3):
        daemon = perditions.new_daemon("imap4", *FEW)
        over = threading.Event()
        with ThreadPoolExecutor() as threads:
            hang_ups = threads.submit(hang_up_until, over, daemon)
            try:
                assert daemon.launch().returncode == 0, daemon.evidence()
            finally:
                over.set()
        assert hang_ups.result() > 0
        with daemon.running():
            clients.log_in(daemon).use()
            assert not daemon.logged("died"), daemon.evidence()
            assert daemon.terminate() == 0


def hang_up_until(over: threading.Event, daemon: PerditionDaemon) -> int:
    """Send SIGHUP to the master repeatedly, as soon as there is a pid file; returns how often."""
    sent = 0
    while not over.is_set():
        if pid := daemon.written_pid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
                sent += 1
    return sent


def signal_all(daemon: PerditionDaemon, number: signal.Signals) -> None:
    """Send a signal to every process, the master last."""
    for process in sorted(daemon.processes(), key=lambda each: each.pid, reverse=True):
        os.kill(process.pid, number)


# Log.


def test_sighup_reopens_a_log_that_was_moved(perditions: Perditions, clients: OpenClients) -> None:
    """logrotate's create, with the old file's owner and mode: new lines go to the new file."""
    daemon = perditions.start_daemon("imap4", *FEW)
    clients.log_in(daemon).log_out()
    daemon.wait_for_log("Close: ")
    old = daemon.log.rename(daemon.log.with_suffix(".1"))
    daemon.log.touch()
    os.chown(daemon.log, old.stat().st_uid, old.stat().st_gid)
    daemon.log.chmod(old.stat().st_mode & 0o7777)

    os.kill(daemon.pid, signal.SIGHUP)

    expect_log_goes_on(daemon, clients, old)


def test_symbolic_link_as_log_is_refused(perditions: Perditions, folder: Path) -> None:
    """A user with write access to the log's folder cannot have root chown another file."""
    target = folder / "of-root"
    target.write_text("secret\n")
    logs = folder / "logs"
    logs.mkdir()
    link = logs / "log"
    link.symlink_to(target)
    shutil.chown(logs, "nobody")

    daemon = perditions.new_daemon("imap4", *FEW, "-F", link)

    assert daemon.launch().returncode == os.EX_USAGE
    assert f"log_facility {link}: " in daemon.parent.stderr
    assert target.read_text() == "secret\n"
    assert target.stat().st_uid == 0


def test_log_that_is_no_file_keeps_its_owner(perditions: Perditions, folder: Path) -> None:
    """Others may use a FIFO or a device such as /dev/null, too."""
    pipe = folder / "pipe"
    os.mkfifo(pipe, 0o600)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        perditions.start_daemon("imap4", *FEW, "-F", pipe)
        assert b"Starting perdition" in os.read(reader, 1000)
    finally:
        os.close(reader)
    assert pipe.stat().st_uid == 0


def test_log_of_the_daemons_user_is_reopened(perditions: Perditions, clients: OpenClients) -> None:
    """The same, with a new file of the user that perdition runs as."""
    daemon = perditions.start_daemon("imap4", *FEW, "-u", "daemon")
    clients.log_in(daemon).log_out()
    daemon.wait_for_log("Close: ")
    old = daemon.log.rename(daemon.log.with_suffix(".1"))
    daemon.log.touch()
    shutil.chown(daemon.log, "daemon")

    os.kill(daemon.pid, signal.SIGHUP)

    expect_log_goes_on(daemon, clients, old)


def expect_log_goes_on(daemon: PerditionDaemon, clients: OpenClients, old: Path) -> None:
    """Log in until every worker has written a Close line to the new file."""

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


def test_log_that_was_moved_is_closed(perditions: Perditions) -> None:
    """Else its disk space is not freed. In the foreground, too."""
    proxy = perditions.start("imap4", *FEW)
    old = proxy.log.rename(proxy.log.with_suffix(".1"))
    proxy.log.touch()
    shutil.chown(proxy.log, "nobody")

    os.kill(proxy.pid, signal.SIGHUP)

    until(
        lambda: not [each for each in proxy.processes() if each.has_open(old)],
        lambda: f"nobody holds {old}\n{proxy.evidence()}",
    )


def test_truncated_log_begins_at_offset_zero(perditions: Perditions, clients: OpenClients) -> None:
    """logrotate's copytruncate: new lines begin at offset 0."""
    daemon = perditions.start_daemon("imap4", *FEW)
    clients.log_in(daemon).log_out()
    daemon.wait_for_log("Close: ")
    with daemon.log.open("r+b") as log:
        log.truncate(0)

    os.kill(daemon.pid, signal.SIGHUP)
    clients.log_in(daemon).log_out()

    daemon.wait_for_log("Close: ")
    assert b"\0" not in daemon.log.read_bytes()


def test_log_file_is_private(perditions: Perditions) -> None:
    """Other users cannot see who reads mail and when."""
    daemon = perditions.start_daemon("imap4", *FEW)

    assert daemon.log.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("facility", ["mail", "local3"])
def test_lines_go_to_the_syslog_facility(
    facility: str, perditions: Perditions, syslog: Syslog, clients: OpenClients
) -> None:
    """Each line has facility, priority, the program's name and the process's pid."""
    daemon = perditions.start_daemon("imap4", *FEW, "-F", facility)
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


def test_syslog_is_the_default(
    perditions: Perditions, syslog: Syslog, clients: OpenClients
) -> None:
    """Facility mail."""
    daemon = perditions.new_daemon("imap4", *FEW)
    place = daemon.command.index("-F")
    del daemon.command[place : place + 2]
    with daemon:
        session = clients.log_in(daemon)
        record = syslog.wait_for(rf"^Connect: {session.own_address}->")
    assert record.facility == "mail"


def test_syslog_works_after_detaching(
    perditions: Perditions, syslog: Syslog, clients: OpenClients, folder: Path
) -> None:
    """Warnings about the configuration file are logged, and all later lines."""
    configuration = folder / "perdition.conf"
    configuration.write_text("ok_line\n")
    daemon = perditions.start_daemon("imap4", *FEW, "-F", "mail", "-f", configuration)
    session = clients.log_in(daemon)

    remark = syslog.wait_for("ok_line has no value")
    assert remark.priority == "warning"
    syslog.wait_for("^Starting perdition ")
    syslog.wait_for(rf"^Connect: {session.own_address}->")
    os.kill(daemon.pid, signal.SIGHUP)
    clients.log_in(daemon).log_out()
    assert daemon.terminate() == 0, daemon.evidence()


def test_restarted_syslog_gets_lines_again(
    perditions: Perditions, syslog: Syslog, clients: OpenClients
) -> None:
    """Later lines go to the new syslogd, without a signal."""
    daemon = perditions.start_daemon("imap4", "--workers", "1", "-F", "mail")
    first = clients.log_in(daemon)
    syslog.wait_for(rf"^Connect: {first.own_address}->")

    syslog.restart()
    second = clients.log_in(daemon)

    syslog.wait_for(rf"^Auth: {second.own_address}->")


def test_syslog_that_does_not_read_stops_no_session(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Its queue fills up; sessions and the end do not block."""
    if reason := Syslog.taken():
        pytest.skip(reason)
    with Syslog(reads=False):
        daemon = perditions.start_daemon("imap4", "--workers", "1", "-F", "mail", "-d", "-C")
        for _ in range(100):
            clients.log_in(daemon).log_out()
        assert daemon.terminate() == 0, daemon.evidence()


def test_no_syslog_stops_no_session(perditions: Perditions, clients: OpenClients) -> None:
    """As in a container: there is no /dev/log."""
    if reason := Syslog.taken():
        pytest.skip(reason)
    daemon = perditions.start_daemon("imap4", *FEW, "-F", "mail")

    clients.log_in(daemon).log_out()

    assert daemon.terminate() == 0, daemon.evidence()


@pytest.mark.parametrize(("facility", "descriptor"), [("-", 1), ("+", 2)])
def test_log_on_the_terminal_stays_in_the_foreground(
    facility: str, descriptor: int, perditions: Perditions, folder: Path, clients: OpenClients
) -> None:
    """Only log lines are on standard output or error, and perdition stays in the foreground."""
    daemon = perditions.new_daemon("imap4", *FEW, "-F", facility)
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


# Starts that fail.


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
def test_error_in_the_options_is_one_line(
    options: tuple[str, ...], perditions: Perditions, syslog: Syslog
) -> None:
    """One line on standard error and the same in a log; nothing starts."""
    daemon = perditions.new_daemon("imap4", *FEW, *options)

    complaint = daemon.expect_refusal()

    text = expect_in_a_log(complaint, daemon, syslog)
    assert options[-1].lstrip("-").partition("=")[0] in text, text
    assert not daemon.pid_file.exists()


def expect_in_a_log(complaint: str, daemon: PerditionDaemon, syslog: Syslog) -> str:
    """The log that -F names has the line; syslog has it if -F is not known yet."""
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
def test_error_in_the_configuration_file_is_one_line(
    line: str, word: str, perditions: Perditions, syslog: Syslog, folder: Path
) -> None:
    """One line that says where it is."""
    configuration = folder / "perdition.conf"
    configuration.write_text(f"# A comment.\n{line}\n")
    daemon = perditions.new_daemon("imap4", *FEW, "-f", configuration)

    assert word in expect_in_a_log(daemon.expect_refusal(), daemon, syslog)


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
def test_unknown_names_in_options_are_refused(
    options: tuple[str, ...], perditions: Perditions, syslog: Syslog
) -> None:
    """One line on standard error and the same in a log; nothing starts."""
    daemon = perditions.new_daemon("imap4", *FEW, *options)

    complaint = daemon.expect_refusal()

    assert options[-1] in expect_in_a_log(complaint, daemon, syslog), complaint
    assert not daemon.pid_file.exists()


def test_port_in_use_is_reported(perditions: Perditions, clients: OpenClients) -> None:
    """The second one fails before it detaches; the first goes on."""
    first = perditions.start_daemon("imap4", *FEW)
    second = perditions.new_daemon("pop3", *FEW, "-l", str(first.port))

    complaint = second.expect_refusal()

    assert str(first.port) in complaint
    assert second.logged(re.escape(complaint.partition(": ")[2])), second.evidence()
    clients.log_in(first).use()


def test_help_starts_nothing() -> None:
    told = subprocess.run(
        [BIN / "perdition.imap4", "--help"], capture_output=True, text=True, check=True
    )
    assert "--connection_limit" in told.stdout
    assert told.stderr == ""


# Configuration files.


def test_configuration_file_is_found(perditions: Perditions, folder: Path) -> None:
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
            assert ok_line_of(perditions, folder) == f"by {path.name}"
            path.unlink()
        assert ok_line_of(perditions, folder) == "You are so in"


def test_missing_configuration_file_changes_nothing_at_sighup(
    perditions: Perditions, clients: OpenClients, folder: Path
) -> None:
    """The file that was found is read again, even in a folder of root's; without it nothing
    changes.
    """
    with saved(CONFIGURATION):
        shutil.rmtree(CONFIGURATION, ignore_errors=True)
        CONFIGURATION.mkdir(0o700)
        file = CONFIGURATION / "perdition.conf"
        file.write_text("ok_line one\n")
        with without_configuration(perditions, folder) as proxy:
            file.write_text("ok_line two\n")
            os.kill(proxy.pid, signal.SIGHUP)
            until(lambda: hears(proxy, clients, b"two"), proxy.evidence)

            file.unlink()
            os.kill(proxy.pid, signal.SIGHUP)
            proxy.wait_for_log(f"reload failed, configuration unchanged: {file}: No such file")
            assert hears(proxy, clients, b"two")


def without_configuration(perditions: Perditions, folder: Path) -> PerditionProcess:
    """A perdition.imaps without an option for its configuration file; it is not started."""
    proxy = PerditionProcess(
        "imaps", folder, *perditions.server_options("imap4"), *FEW, "--ssl_mode", "none"
    )
    place = proxy.command.index("-f")
    del proxy.command[place : place + 2]
    return proxy


def ok_line_of(perditions: Perditions, folder: Path) -> str:
    """The ok_line that it logs."""
    with without_configuration(perditions, folder) as proxy:
        [line] = proxy.wait_for_log("ok_line=")
    found = re.search(r'ok_line="([^"]*)"', line)
    assert found, line
    return found[1]


def test_command_line_overrides_the_file(
    perditions: Perditions, folder: Path, server: RealServer
) -> None:
    """Whatever the order on the command line."""
    configuration = folder / "perdition.conf"
    configuration.write_text('ok_line "by the file"\ntimeout 77\n')
    proxy = perditions.start("imap4", *FEW, "--ok_line", "by the command line", "-f", configuration)

    [line] = proxy.wait_for_log("ok_line=")
    assert 'ok_line="by the command line"' in line
    assert "timeout=77" in line


def test_unfinished_login_is_no_session(perditions: Perditions, clients: OpenClients) -> None:
    """A client that has not logged in is disconnected at the end as well."""
    daemon = perditions.start_daemon("imap4", *FEW)
    client = clients.connect(daemon)
    client.read_until(PROTOCOLS["imap4"].greeting)

    assert daemon.terminate() == 0, daemon.evidence()
    assert fails(lambda: client.ask(b"a NOOP", rb"a OK"))
