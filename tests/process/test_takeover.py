"""A new perdition takes over from the running one, and no client notices."""

import os
import re
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.process.conftest import PASSWORD, needs_root
from tests.support.client_connection import OpenClients, RepeatedLogins
from tests.support.metrics import Scraper
from tests.support.perdition import Perditions, TakeoverChain, stopped_at
from tests.support.processes import (
    ProcessInfo,
    descendants,
    exit_status,
    free_ports,
    refuses_connections,
)
from tests.support.stop_points import MASTER_WAITS_FOR_WORKERS, SECOND_WORKER_STARTS
from tests.support.wait import DEADLINE, until

pytestmark = needs_root

NOBODY = 65534


@pytest.mark.parametrize(
    ("protocol", "takeovers", "idle"), [("imap4", 10, 100), ("pop3", 2, 5), ("managesieve", 2, 5)]
)
@pytest.mark.slow
def test_every_login_succeeds_during_ten_takeovers(
    protocol: str,
    takeovers: int,
    idle: int,
    perditions: Perditions,
    clients: OpenClients,
    many_files: None,
) -> None:
    """Idle sessions of all instances stay, too."""
    chain = TakeoverChain(perditions, protocol)
    held = []
    with RepeatedLogins(chain.first, PASSWORD) as logins:
        for _ in range(takeovers):
            held += [clients.log_in(chain.current) for _ in range(idle)]
            logins.start_counting()
            logins.expect_successes(5)
            chain.take_over()
        logins.start_counting()
        logins.expect_successes()

    assert not logins.failures, logins.failures
    for session in held:
        session.use()
    for session in held:
        session.log_out()
    for old in chain.all[:-1]:
        old.expect_end()
    assert chain.current.written_pid() == chain.current.pid
    clients.log_in(chain.current).use()


def test_process_title_shows_draining(perditions: Perditions, clients: OpenClients) -> None:
    chain = TakeoverChain(perditions, "imap4")
    held = clients.log_in(chain.first)

    chain.take_over()

    old = ProcessInfo(chain.first.pid)
    until(lambda: old.title == "perdition.imap4: master, draining", chain.first.evidence)
    held.use()
    chain.first.wait_for_log("taken over by another instance")


@pytest.mark.parametrize(
    "mistake",
    [
        ("--timeout", "soon"),
        ("--ssl_mode", "ssl_listen", "--ssl_cert_file", "/nonexistent"),
        ("-b", "192.0.2.1"),
        ("--map_library", "/nonexistent.so"),
    ],
)
def test_error_in_the_options_does_not_affect_the_running_instance(
    mistake: tuple[str, ...], perditions: Perditions, clients: OpenClients
) -> None:
    """The command reports the error; the running instance continues and can still be taken over."""
    chain = TakeoverChain(perditions, "imap4")
    held = clients.log_in(chain.first)

    failed = chain.new_successor(*mistake).launch()

    assert failed.returncode == os.EX_USAGE, failed
    assert len(failed.stderr.splitlines()) == 1, failed.stderr
    held.use()
    clients.log_in(chain.first).use()
    assert chain.first.written_pid() == chain.first.pid
    chain.take_over()
    clients.log_in(chain.current).use()


def test_failing_workers_do_not_affect_the_running_instance(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Even if the successor fails as late as in its workers."""
    chain = TakeoverChain(perditions, "imap4")
    held = clients.log_in(chain.first)
    successor = chain.new_successor()
    successor.command[:0] = ["prlimit", "--nproc=0"]  # its user can have no processes

    successor.command += ["-u", "12345"]
    assert successor.launch().returncode == 1, successor.evidence()

    successor.wait_for_log("startup failed")
    held.use()
    clients.log_in(chain.first).use()
    assert chain.first.written_pid() == chain.first.pid
    chain.take_over()
    clients.log_in(chain.current).use()


def test_successor_stops_if_the_predecessor_is_stopped_during_a_takeover(
    perditions: Perditions,
) -> None:
    """An operator who stops perdition wants neither of them to run."""
    chain = TakeoverChain(perditions, "imap4")
    successor = chain.new_successor()
    with stopped_at(MASTER_WAITS_FOR_WORKERS, successor):
        assert chain.first.terminate() == 0
    assert successor.parent.returncode == 1, successor.evidence()
    successor.wait_for_log("exited in the meantime")
    assert refuses_connections(chain.first.address)
    assert not chain.first.pid_file.exists()


def test_successor_accepts_no_clients_before_it_has_taken_over(
    perditions: Perditions, clients: OpenClients
) -> None:
    """If it is stopped before all its workers serve, no session ends."""
    chain = TakeoverChain(perditions, "imap4")
    successor = chain.new_successor()
    with stopped_at(SECOND_WORKER_STARTS, successor) as second_worker:
        master = second_worker.parent()
        until(lambda: workers_of(master) == ["worker 1", "worker 2"], successor.evidence)
        assert chain.first.written_pid() == chain.first.pid
        sessions = [clients.log_in(chain.first) for _ in range(20)]
        os.kill(master.pid, signal.SIGTERM)

    assert successor.parent.returncode == 1, successor.evidence()
    for session in sessions:
        session.use()


def workers_of(master: ProcessInfo) -> list[str]:
    """The titles of a master's workers, without program and sessions."""
    titles = (process.title for process in descendants(master.pid))
    return sorted(found[1] for title in titles if (found := re.search(r": (worker \d+),", title)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_takeover_continues_if_its_command_is_killed(
    number: signal.Signals, perditions: Perditions, clients: OpenClients
) -> None:
    """An operator who interrupts the command does not interrupt the takeover."""
    chain = TakeoverChain(perditions, "imap4")
    successor = chain.new_successor()
    with stopped_at(MASTER_WAITS_FOR_WORKERS, successor):
        successor.command_process.send_signal(number)
        assert successor.wait_for_command().returncode != 0
        assert not successor.parent.stderr
    chain.first.wait_for_log("taken over by another instance")
    pid = successor.written_pid()
    clients.log_in(successor).use()
    os.kill(pid, signal.SIGTERM)
    assert exit_status(pid) == 0, successor.evidence()


def test_takeover_fails_without_a_running_instance(perditions: Perditions) -> None:
    """The command names the socket that does not exist."""
    failed = perditions.new_daemon("imap4", "--workers", "2", "--takeover").launch()

    assert failed.returncode == os.EX_USAGE
    assert ".takeover: No such file" in failed.stderr


def test_sighup_reopens_the_logs_of_draining_predecessors(
    perditions: Perditions, clients: OpenClients
) -> None:
    """SIGHUP is sent to the last master only."""
    chain = TakeoverChain(perditions, "imap4")
    log = chain.first.log
    sessions = [clients.log_in(chain.first)]
    for _ in range(2):
        chain.take_over("-F", log)
        sessions += [clients.log_in(chain.current)]
    old = log.rename(log.with_suffix(".1"))
    log.touch()
    shutil.chown(log, old.stat().st_uid, old.stat().st_gid)

    os.kill(chain.current.pid, signal.SIGHUP)

    processes = [process for daemon in chain.all for process in daemon.processes()]
    until(
        lambda: not any(process.has_open(old) for process in processes),
        lambda: (
            f"still in the old log: {[process for process in processes if process.has_open(old)]}"
        ),
    )
    for session in sessions:
        session.log_out()
    until(lambda: log.read_text().count("Close: ") == len(sessions), log.read_text)


@pytest.mark.slow
def test_sigterm_also_ends_draining_predecessors(
    perditions: Perditions, clients: OpenClients
) -> None:
    """SIGTERM is sent to the last master only; all sessions have their Close lines."""
    chain = TakeoverChain(perditions, "imap4")
    held = []
    for _ in range(3):
        held.append(clients.log_in(chain.current))
        chain.take_over()

    assert chain.current.terminate() == 0, chain.current.evidence()

    for old in chain.all:
        old.expect_end()
    for session, old in zip(held, chain.all, strict=False):
        session.read_to_end()
        old.wait_for_log(f"Close: {session.own_address}->")
    assert refuses_connections(chain.first.address)
    assert not chain.first.pid_file.exists()
    assert not chain.takeover_socket.exists()


def test_killed_successor_ends_no_older_sessions(
    perditions: Perditions, clients: OpenClients
) -> None:
    chain = TakeoverChain(perditions, "imap4")
    held = clients.log_in(chain.first)
    successor = chain.take_over()

    os.kill(successor.pid, signal.SIGKILL)
    successor.wait()
    until(lambda: not successor.processes(), successor.evidence)

    held.use()
    held.log_out()
    assert chain.first.wait() == 0


def test_death_of_a_draining_worker_is_logged(perditions: Perditions, clients: OpenClients) -> None:
    """Its sessions have no Close lines: the log has their number and the signal."""
    chain = TakeoverChain(perditions, "imap4")
    clients.log_in(chain.first)
    chain.take_over()
    until(lambda: len(chain.first.workers()) == 1, chain.first.evidence)
    [worker] = chain.first.workers()

    worker.kill()

    chain.first.wait_for_log(rf"\(pid {worker.pid}\) was killed by SIGKILL with 1 session$")
    assert chain.first.wait() == 0


def test_drain_timeout_ends_the_predecessors_sessions(
    perditions: Perditions, clients: OpenClients
) -> None:
    chain = TakeoverChain(perditions, "imap4", "--drain_timeout", "1")
    held = clients.log_in(chain.first)

    chain.take_over()

    held.read_to_end()
    assert chain.first.wait() == 0
    chain.first.wait_for_log(f"Close: {held.own_address}->")


@pytest.mark.slow
def test_successor_may_stop_before_its_predecessor(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Each has its own drain_timeout; the log says that the predecessor still has sessions."""
    chain = TakeoverChain(perditions, "imap4", "--drain_timeout", "3600")
    held = clients.log_in(chain.first)
    successor = chain.take_over("--drain_timeout", "0")

    assert successor.terminate() == 0, successor.evidence()

    successor.wait_for_log("the instance that was taken over still has sessions")
    assert not successor.logged("killed"), successor.evidence()
    held.use()
    held.log_out()


def test_connection_limit_stays_exact(perditions: Perditions, clients: OpenClients) -> None:
    """Sessions of the predecessor count until they end."""
    chain = TakeoverChain(perditions, "imap4", "-L", "2")
    held = [clients.log_in(chain.first) for _ in range(2)]

    chain.take_over()

    assert clients.connect(chain.current).read_line_or_end() == b""
    held[0].log_out()
    until(
        lambda: clients.connect(chain.current).read_line_or_end(),
        lambda: f"room for one\n{chain.current.evidence()}",
    )
    held[1].use()


def test_local_authentication_works_before_and_after_a_takeover(
    perditions: Perditions, clients: OpenClients, pam_permits: None
) -> None:
    """Clients that the predecessor has greeted are authenticated by its helper."""
    chain = TakeoverChain(perditions, "imap4", "-a")
    waiting = clients.connect(chain.first)
    waiting.read_until(rb"\* OK.*\r\n")

    chain.take_over()

    waiting.ask(f"a LOGIN joe {PASSWORD}".encode(), rb"(?m)^a OK.*\r\n")
    clients.log_in(chain.current).use()


def test_metrics_socket_is_handed_over(
    perditions: Perditions, clients: OpenClients, folder: Path
) -> None:
    """Scrapers get the successor's counters, which start at zero."""
    scraper = Scraper(folder / "metrics")
    chain = TakeoverChain(perditions, "imap4", *scraper.option)
    clients.log_in(chain.first)
    scraper.expect(1, "logins_total", "ok")

    chain.take_over()
    clients.log_in(chain.current)
    clients.log_in(chain.current)

    scraper.expect(2, "logins_total", "ok")


def test_draining_instance_serves_no_metrics(perditions: Perditions, clients: OpenClients) -> None:
    """If the successor has no metrics, the address is free."""
    [port] = free_ports(1)
    chain = TakeoverChain(perditions, "imap4")
    told = chain.take_over(*Scraper(("127.0.0.1", port)).option)
    held = clients.log_in(told)

    chain.take_over()

    until(lambda: refuses_connections(("127.0.0.1", port)), told.evidence)
    held.use()


def test_handed_over_sockets_are_close_on_exec(perditions: Perditions, folder: Path) -> None:
    """Programs that a popmap's library or a PAM module runs do not get the listening sockets."""
    options = ("--connection_limit", "5", *Scraper(folder / "metrics").option)
    chain = TakeoverChain(perditions, "imap4", *options)
    before = ProcessInfo(chain.first.pid).inheritable_descriptors()

    assert ProcessInfo(chain.take_over().pid).inheritable_descriptors() == before


def test_successor_listens_at_its_own_address(perditions: Perditions, clients: OpenClients) -> None:
    """The successor listens where its own configuration says; the old address is free."""
    chain = TakeoverChain(perditions, "imap4")
    held = clients.log_in(chain.first)
    successor = chain.new_successor("-b", "127.0.0.2")
    successor.address = ("127.0.0.2", successor.port)

    with successor:
        clients.log_in(successor).use()
        assert refuses_connections(chain.first.address)
        held.use()


def as_nobody(statements: str) -> list[str]:
    """The command that runs Python statements with a Unix socket ``s`` as the workers' user."""
    program = (
        f"import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); {statements}"
    )
    return ["setpriv", "--reuid", str(NOBODY), "--clear-groups", "/usr/bin/python3", "-c", program]


def test_only_root_can_take_over(perditions: Perditions) -> None:
    """Neither the workers' user nor any other can connect."""
    chain = TakeoverChain(perditions, "imap4", "-u", str(NOBODY))
    done = subprocess.run(
        as_nobody(f"s.connect({str(chain.takeover_socket)!r})"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError" in done.stderr, done


def test_forged_takeover_socket_is_refused(perditions: Perditions) -> None:
    """A socket that the workers' user created passes nothing to root."""
    chain = TakeoverChain(perditions, "imap4")
    chain.takeover_socket.unlink()
    program = as_nobody(
        f"s.bind({str(chain.takeover_socket)!r}); s.listen(); print('listens', flush=True);"
        "s.accept(); s.accept()"
    )
    with subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        text=True,
    ) as impostor:
        try:
            assert impostor.stdout
            assert impostor.stdout.readline() == "listens\n"
            failed = chain.new_successor().launch()
        finally:
            impostor.kill()
    assert failed.returncode == os.EX_USAGE
    assert "process of another user" in failed.stderr


def test_second_successor_is_refused(perditions: Perditions, clients: OpenClients) -> None:
    """The first may still be starting.

    One that never sends anything does not block takeovers for good.
    """
    chain = TakeoverChain(perditions, "imap4")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(chain.takeover_socket))
        silent.recv(1)
        failed = chain.new_successor().launch()
        assert failed.returncode == os.EX_USAGE
        assert "the running instance is stopping; try again later" in failed.stderr
    clients.log_in(chain.first).use()
    chain.take_over()


def test_predecessor_that_stops_closes_the_successors_connection(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Even while sessions drain, so that a successor that is starting gives up."""
    chain = TakeoverChain(perditions, "imap4", "--drain_timeout", "3600")
    clients.log_in(chain.first)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.settimeout(DEADLINE)
        silent.connect(str(chain.takeover_socket))
        assert silent.recv(10)

        os.kill(chain.first.pid, signal.SIGTERM)

        while silent.recv(10):
            pass
    chain.first.wait_for_log("SIGTERM: stopping")
    os.kill(chain.first.pid, signal.SIGKILL)


def test_invalid_message_is_ignored(perditions: Perditions, clients: OpenClients) -> None:
    """The takeover socket ignores what is not its protocol."""
    chain = TakeoverChain(perditions, "imap4")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as fool:
        fool.connect(str(chain.takeover_socket))
        with suppress(OSError):
            fool.send(b"\xff" * 100)
        clients.log_in(chain.first).use()
    chain.take_over()
    clients.log_in(chain.current).use()
