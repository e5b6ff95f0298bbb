"""A new perdition takes the place of the running one, and no client notices."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.process.conftest import (
    PASSWORD,
    Clients,
    Started,
    fails,
    needs_root,
    refused,
)
from tests.support.daemon import Daemon
from tests.support.family import Member, descendants, exit_status
from tests.support.metrics import Scraper
from tests.support.processes import free_ports
from tests.support.users import Users
from tests.support.wait import DEADLINE, until

pytestmark = needs_root

FEW = ("--workers", "2")
NOBODY = 65534


class Generations:
    """Perditions, each of which takes the place of the one before, on one address."""

    def __init__(self, started: Started, protocol: str, *options: str | Path) -> None:
        self._started = started
        self._protocol = protocol
        self._options = options
        self.all = [started.daemon(protocol, *FEW, *options)]
        self.first = self.all[0]

    @property
    def present(self) -> Daemon:
        """The latest one that has taken its predecessor's place."""
        return self.all[-1]

    def candidate(self, *options: str | Path) -> Daemon:
        """One that is to be the next, with further options; it has not been started."""
        known = (*FEW, "-l", str(self.first.port), *self._options)
        found = self._started.prepared(
            self._protocol, *known, *options, "--takeover", pid_file=self.first.pid_file
        )
        found.port, found.address = self.first.port, self.first.address
        return found

    def next(self, *options: str | Path) -> Daemon:
        """The next one, which has taken the place of the present one."""
        found = self._started.enter(self.candidate(*options))
        self.all.append(found)
        return found

    def socket(self) -> Path:
        """Where the running one awaits its successor."""
        return self.first.pid_file.with_name(f"{self.first.pid_file.name}.takeover")


def expect_end(daemon: Daemon) -> None:
    """Wait until it has ended well, and all its processes with it."""
    assert daemon.wait() == 0, daemon.evidence()
    until(lambda: not daemon.processes(), daemon.evidence)


def serving(master: int) -> list[Member]:
    """The workers of a master that have come so far as to have a title."""
    return [member for member in descendants(master) if ": worker " in member.title]


@contextmanager
def stopped_while_it_starts(successor: Daemon, workers: int = 0) -> Iterator[int]:
    """Start a successor whose master stands still once so many workers are there; gives its pid.

    It goes on at the end, and must fail.
    """
    with ThreadPoolExecutor() as threads:
        launched = threads.submit(successor.launch)
        [line] = successor.wait_for_log("Starting perdition")
        pid = int(re.findall(r"\[(\d+)\]", line)[0])
        until(lambda: len(serving(pid)) >= workers, successor.evidence)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGCONT)
        assert launched.result().returncode == 1, successor.evidence()


@pytest.mark.parametrize(
    ("protocol", "takeovers", "idle"), [("imap4", 10, 100), ("pop3", 2, 5), ("managesieve", 2, 5)]
)
def test_several_in_a_row(
    protocol: str,
    takeovers: int,
    idle: int,
    started: Started,
    clients: Clients,
    many_files: None,
) -> None:
    """Users log in all the time, others are idle in each generation: none is refused or dropped."""
    generations = Generations(started, protocol)
    held = []
    with Users(generations.first, PASSWORD) as users:
        for _ in range(takeovers):
            held += [clients.log_in(generations.present) for _ in range(idle)]
            users.start_counting()
            users.expect_successes(5)
            generations.next()
        users.start_counting()
        users.expect_successes()

    assert not users.failures, users.failures
    for session in held:
        session.use()
    for session in held:
        session.log_out()
    for old in generations.all[:-1]:
        expect_end(old)
    assert generations.present.written_pid() == generations.present.pid
    clients.log_in(generations.present).use()


def test_process_title_tells_who_drains(started: Started, clients: Clients) -> None:
    generations = Generations(started, "imap4")
    held = clients.log_in(generations.first)

    generations.next()

    old = Member(generations.first.pid)
    until(lambda: old.title == "perdition.imap4: master, draining", generations.first.evidence)
    held.use()
    generations.first.wait_for_log("taken over by another instance")


@pytest.mark.parametrize(
    "mistake",
    [
        ("--timeout", "soon"),
        ("--ssl_mode", "ssl_listen", "--ssl_cert_file", "/nonexistent"),
        ("-b", "192.0.2.1"),
        ("--map_library", "/nonexistent.so"),
    ],
)
def test_mistake_leaves_everything_as_it_was(
    mistake: tuple[str, ...], started: Started, clients: Clients
) -> None:
    """The command says what is wrong; the running one has lost nothing, its successor included."""
    generations = Generations(started, "imap4")
    held = clients.log_in(generations.first)

    failed = generations.candidate(*mistake).launch()

    assert failed.returncode == os.EX_USAGE, failed
    assert len(failed.stderr.splitlines()) == 1, failed.stderr
    held.use()
    clients.log_in(generations.first).use()
    assert generations.first.written_pid() == generations.first.pid
    generations.next()
    clients.log_in(generations.present).use()


def test_workers_that_die_leave_everything_as_it_was(
    started: Started, clients: Clients, folder: Path
) -> None:
    """Also a successor that has come as far as its workers is as if it had never been."""
    generations = Generations(started, "imap4")
    held = clients.log_in(generations.first)
    successor = generations.candidate()
    successor.command[:0] = ["prlimit", "--nproc=0"]  # its user can have no processes

    successor.command += ["-u", "12345"]
    assert successor.launch().returncode == 1, successor.evidence()

    successor.wait_for_log("startup failed")
    held.use()
    clients.log_in(generations.first).use()
    assert generations.first.written_pid() == generations.first.pid
    generations.next()
    clients.log_in(generations.present).use()


def test_end_of_the_predecessor_meanwhile(started: Started) -> None:
    """A successor that nobody could find ends as well: there is to be no perdition any more."""
    generations = Generations(started, "imap4")
    successor = generations.candidate("--workers", "60")
    with stopped_while_it_starts(successor):
        assert generations.first.terminate() == 0
    successor.wait_for_log("exited in the meantime")
    assert refused(generations.first.address)
    assert not generations.first.pid_file.exists()


def test_clients_are_not_the_successors_until_it_has_taken_over(
    started: Started, clients: Clients
) -> None:
    """One that ends before all its workers serve has had no sessions that could end with it."""
    generations = Generations(started, "imap4")
    successor = generations.candidate("--workers", "60")
    with stopped_while_it_starts(successor, workers=2) as pid:
        assert generations.first.written_pid() == generations.first.pid, "it was too fast"
        held = [clients.log_in(generations.first) for _ in range(20)]
        os.kill(pid, signal.SIGTERM)

    for session in held:
        session.use()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_end_of_the_command_meanwhile(
    number: signal.Signals, started: Started, clients: Clients
) -> None:
    """Whoever has started the successor may be impatient: it takes over and serves nevertheless."""
    generations = Generations(started, "imap4")
    successor = generations.candidate("--workers", "30")
    with subprocess.Popen(successor.command, stderr=subprocess.PIPE, text=True) as command:
        successor.wait_for_log("Starting perdition")
        command.send_signal(number)
        assert command.wait(DEADLINE) != 0
        assert command.stderr
        assert not command.stderr.read()
        generations.first.wait_for_log("taken over by another instance")
    pid = successor.written_pid()
    clients.log_in(successor).use()
    os.kill(pid, signal.SIGTERM)
    assert exit_status(pid, DEADLINE) == 0, successor.evidence()


def test_nobody_to_take_over_from(started: Started, folder: Path) -> None:
    """The command names the place where nobody answers."""
    failed = started.prepared("imap4", *FEW, "--takeover").launch()

    assert failed.returncode == os.EX_USAGE
    assert ".takeover: No such file" in failed.stderr


def test_log_that_is_moved_away(started: Started, clients: Clients) -> None:
    """Told to read all again, the last one has its predecessors go over to the new log as well."""
    generations = Generations(started, "imap4")
    log = generations.first.log
    sessions = [clients.log_in(generations.first)]
    for _ in range(2):
        generations.next("-F", log)
        sessions += [clients.log_in(generations.present)]
    old = log.rename(log.with_suffix(".1"))
    log.touch()
    shutil.chown(log, old.stat().st_uid, old.stat().st_gid)

    os.kill(generations.present.pid, signal.SIGHUP)

    members = [member for daemon in generations.all for member in daemon.members()]
    until(
        lambda: not any(member.holds(old) for member in members),
        lambda: f"still in the old log: {[member for member in members if member.holds(old)]}",
    )
    for session in sessions:
        session.log_out()
    until(lambda: log.read_text().count("Close: ") == len(sessions), log.read_text)


def test_end_is_the_end_of_all(started: Started, clients: Clients) -> None:
    """Who ends the present one ends those that still drain, with their closing lines."""
    generations = Generations(started, "imap4")
    held = []
    for _ in range(3):
        held.append(clients.log_in(generations.present))
        generations.next()

    assert generations.present.terminate() == 0, generations.present.evidence()

    for old in generations.all:
        expect_end(old)
    for session, old in zip(held, generations.all, strict=False):
        session.read_to_end()
        old.wait_for_log(f"Close: {session.own_address}->")
    assert refused(generations.first.address)
    assert not generations.first.pid_file.exists()
    assert not generations.socket().exists()


def test_kill_of_the_successor_spares_older_sessions(started: Started, clients: Clients) -> None:
    generations = Generations(started, "imap4")
    held = clients.log_in(generations.first)
    successor = generations.next()

    os.kill(successor.pid, signal.SIGKILL)
    successor.wait()
    until(lambda: not successor.processes(), successor.evidence)

    held.use()
    held.log_out()
    assert generations.first.wait() == 0


def test_death_of_a_worker_that_drains_is_told(started: Started, clients: Clients) -> None:
    """Its sessions have no closing lines: the log tells how many are lost, and why."""
    generations = Generations(started, "imap4")
    clients.log_in(generations.first)
    generations.next()
    until(lambda: len(serving(generations.first.pid)) == 1, generations.first.evidence)
    [worker] = serving(generations.first.pid)

    worker.kill()

    generations.first.wait_for_log(rf"\(pid {worker.pid}\) was killed by SIGKILL with 1 session$")
    assert generations.first.wait() == 0


def test_drain_timeout(started: Started, clients: Clients) -> None:
    """Open sessions have no more than that."""
    generations = Generations(started, "imap4", "--drain_timeout", "1")
    held = clients.log_in(generations.first)

    generations.next()

    held.read_to_end()
    assert generations.first.wait() == 0
    generations.first.wait_for_log(f"Close: {held.own_address}->")


def test_end_before_the_predecessors_end(started: Started, clients: Clients) -> None:
    """Each has its own drain_timeout, and the log tells that one ends later than the other."""
    generations = Generations(started, "imap4", "--drain_timeout", "3600")
    held = clients.log_in(generations.first)
    successor = generations.next("--drain_timeout", "0")

    assert successor.terminate() == 0, successor.evidence()

    successor.wait_for_log("the perdition that was taken over has sessions left")
    assert not successor.logged("killed"), successor.evidence()
    held.use()
    held.log_out()


def test_connection_limit_stays_exact(started: Started, clients: Clients) -> None:
    """Sessions of before count, and make room when they end."""
    generations = Generations(started, "imap4", "-L", "2")
    held = [clients.log_in(generations.first) for _ in range(2)]

    generations.next()

    assert clients.connect(generations.present).first_words() == b""
    held[0].log_out()
    until(
        lambda: clients.connect(generations.present).first_words(),
        lambda: f"room for one\n{generations.present.evidence()}",
    )
    held[1].use()


def test_local_authentication_before_and_after(
    started: Started, clients: Clients, pam_permits: None
) -> None:
    """Who has begun with the old one is asked about by the old one's helper."""
    generations = Generations(started, "imap4", "-a")
    waiting = clients.connect(generations.first)
    waiting.read_until(rb"\* OK.*\r\n")

    generations.next()

    waiting.ask(f"a LOGIN joe {PASSWORD}".encode(), rb"(?m)^a OK.*\r\n")
    clients.log_in(generations.present).use()


def test_metrics_socket_goes_along(started: Started, clients: Clients, folder: Path) -> None:
    """Scrapers find the successor's figures, which begin anew."""
    scraper = Scraper(folder / "metrics")
    generations = Generations(started, "imap4", *scraper.option)
    clients.log_in(generations.first)
    scraper.expect(1, "logins_total", "ok")

    generations.next()
    clients.log_in(generations.present)
    clients.log_in(generations.present)

    scraper.expect(2, "logins_total", "ok")


def test_scrapers_do_not_wait_for_who_drains(started: Started, clients: Clients) -> None:
    """Where the successor tells no metrics nobody does, and the address is free for the next."""
    [port] = free_ports(1)
    generations = Generations(started, "imap4")
    told = generations.next(*Scraper(("127.0.0.1", port)).option)
    held = clients.log_in(told)

    generations.next()

    until(lambda: refused(("127.0.0.1", port)), told.evidence)
    held.use()


def test_no_other_program_gets_what_was_handed_over(started: Started, folder: Path) -> None:
    """What a map's library or a module of PAM runs is nobody to have the listening sockets."""
    options = ("--connection_limit", "5", *Scraper(folder / "metrics").option)
    generations = Generations(started, "imap4", *options)
    before = Member(generations.first.pid).bequeathed()

    assert Member(generations.next().pid).bequeathed() == before


def test_new_address(started: Started, clients: Clients) -> None:
    """The successor listens where its own configuration says; the old address is free."""
    generations = Generations(started, "imap4")
    held = clients.log_in(generations.first)
    successor = generations.candidate("-b", "127.0.0.2")
    successor.address = ("127.0.0.2", successor.port)

    with successor:
        clients.log_in(successor).use()
        assert refused(generations.first.address)
        held.use()


def test_only_root_can_take_over(started: Started) -> None:
    """Neither the workers' user nor any other may even connect."""
    generations = Generations(started, "imap4", "-u", str(NOBODY))
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"s.connect({str(generations.socket())!r})"
    )
    done = subprocess.run(
        ["setpriv", "--reuid", str(NOBODY), "--clear-groups", "/usr/bin/python3", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError" in done.stderr, done


def test_impostor_is_not_taken_over_from(started: Started, folder: Path) -> None:
    """What the workers' user has put in the socket's place hands nothing to root."""
    generations = Generations(started, "imap4")
    generations.socket().unlink()
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"s.bind({str(generations.socket())!r}); s.listen(); print('listens', flush=True);"
        "s.accept(); s.accept()"
    )
    with subprocess.Popen(
        ["setpriv", "--reuid", str(NOBODY), "--clear-groups", "/usr/bin/python3", "-c", program],
        stdout=subprocess.PIPE,
        text=True,
    ) as impostor:
        try:
            assert impostor.stdout
            assert impostor.stdout.readline() == "listens\n"
            failed = generations.candidate().launch()
        finally:
            impostor.kill()
    assert failed.returncode == os.EX_USAGE
    assert "process of another user" in failed.stderr


def test_second_successor_at_a_time_is_sent_away(started: Started, clients: Clients) -> None:
    """Whoever came first may still be starting; a line that is silent is no hindrance for good."""
    generations = Generations(started, "imap4")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(generations.socket()))
        silent.recv(1)
        failed = generations.candidate().launch()
        assert failed.returncode == os.EX_USAGE
        assert "the running instance is stopping; try again later" in failed.stderr
    clients.log_in(generations.first).use()
    generations.next()


def test_end_is_also_the_end_of_who_is_about_to_take_over(
    started: Started, clients: Clients
) -> None:
    """Its line is closed although sessions go on for a while: it does not serve on unasked."""
    generations = Generations(started, "imap4", "--drain_timeout", "3600")
    clients.log_in(generations.first)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.settimeout(DEADLINE)
        silent.connect(str(generations.socket()))
        assert silent.recv(10)

        os.kill(generations.first.pid, signal.SIGTERM)

        while silent.recv(10):
            pass
    generations.first.wait_for_log("SIGTERM: stopping")
    os.kill(generations.first.pid, signal.SIGKILL)


def test_nothing_said_is_nothing_done(started: Started, clients: Clients) -> None:
    """What is no word of ours is as good as silence."""
    generations = Generations(started, "imap4")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as fool:
        fool.connect(str(generations.socket()))
        with suppress(OSError):
            fool.send(b"\xff" * 100)
        assert fails(lambda: clients.log_in(generations.first).use()) is False
    generations.next()
    clients.log_in(generations.present).use()
