"""kill -9 of each kind of process during logins: what goes on, and what is restarted."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.conftest import PASSWORD, fails, needs_root
from tests.support.client_connection import OpenClients, RepeatedLogins
from tests.support.perdition import PerditionProcess, Perditions
from tests.support.processes import ProcessInfo, refuses_connections
from tests.support.saved import saved
from tests.support.wait import DEADLINE, until

pytestmark = needs_root

FEW = ("--workers", "2")
WITH_HELPER = (*FEW, "-a")
SOON = 5.0
"""Seconds until a killed process is restarted."""

ENDLESS_MAP = """
from perdition.popmap import NoMap


class Endless(NoMap):
    def __init__(self, options):
        pass

    def lookup(self, query):
        while True:
            pass
"""


@pytest.fixture
def proxy(perditions: Perditions, pam_permits: None) -> PerditionProcess:
    """A perdition with processes of all kinds."""
    return perditions.start("imap4", *WITH_HELPER)


@pytest.fixture
def logins(proxy: PerditionProcess) -> Iterator[RepeatedLogins]:
    """Repeated logins that have begun to succeed."""
    with RepeatedLogins(proxy, PASSWORD) as found:
        found.expect_successes()
        yield found


def pids(proxy: PerditionProcess, kind: str) -> set[int]:
    """The processes of that kind. Those that ask PAM are of no kind."""
    form = re.compile(rf"{proxy.name}: {kind}( \d.*)?")
    return {each.pid for each in proxy.processes() if form.fullmatch(each.title)}


def the_helper(proxy: PerditionProcess) -> set[int]:
    """The helper, once no other process has its title: a child that asks PAM has it at first."""

    def look() -> set[int] | None:
        found = pids(proxy, "helper")
        return found if len(found) == 1 else None

    return until(look, proxy.evidence)


def both_workers(proxy: PerditionProcess) -> set[int]:
    """The two workers, once both run: perdition listens before."""

    def look() -> set[int] | None:
        found = pids(proxy, "worker")
        return found if len(found) == 2 else None

    return until(look, lambda: f"two workers\n{proxy.evidence()}")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def expect_another(proxy: PerditionProcess, kind: str, old: set[int], count: int) -> set[int]:
    """Wait until the same number of processes runs again without the killed one."""

    def look() -> set[int] | None:
        now = pids(proxy, kind)
        return now if len(now) == count and now != old else None

    return until(look, lambda: f"another {kind} than {old}\n{proxy.evidence()}", SOON)


@pytest.mark.slow
def test_killed_worker_is_replaced(
    proxy: PerditionProcess, logins: RepeatedLogins, clients: OpenClients
) -> None:
    """It is restarted; sessions of other workers and new logins go on; the log has its death."""
    held = [clients.log_in(proxy) for _ in range(10)]
    before = pids(proxy, "worker")
    victim = min(before)

    kill(victim)
    after = expect_another(proxy, "worker", before, len(before))
    logins.start_counting()
    logins.expect_successes()

    assert len(after & before) == len(before) - 1, proxy.evidence()
    [line] = proxy.wait_for_log(
        rf"worker 1 \(pid {victim}\) was killed by SIGKILL with \d+ session"
    )
    lost = int(re.findall(r"with (\d+) session", line)[0])
    ended = sum(fails(each.use) for each in held)
    # One of the repeated logins may have been on that worker.
    assert lost - 1 <= ended <= lost, f"{ended} sessions ended, {line}"
    assert len(logins.failures) <= 1, logins.failures


def test_workers_share_no_socket(perditions: Perditions, pam_permits: None) -> None:
    """No worker can use another's helper channel or order socket; only the listening sockets are
    shared.
    """
    proxy = perditions.start("imap4", *WITH_HELPER)
    before = both_workers(proxy)
    kill(min(before))
    workers = [ProcessInfo(pid) for pid in expect_another(proxy, "worker", before, len(before))]

    one, two = (worker.sockets() for worker in workers)

    assert len(one & two) == 1, f"{workers} have {one} and {two}"


@pytest.mark.slow
def test_workers_killed_repeatedly_are_replaced(
    proxy: PerditionProcess, logins: RepeatedLogins
) -> None:
    """Each worker several times: few logins fail, and every worker is restarted."""
    for _ in range(3):
        for victim in sorted(pids(proxy, "worker")):
            before = pids(proxy, "worker")
            kill(victim)
            expect_another(proxy, "worker", before, len(before))
            logins.start_counting()
            logins.expect_successes()
    assert proxy.terminate() == 0, proxy.evidence()


@pytest.mark.slow
def test_killed_helper_is_replaced(
    proxy: PerditionProcess, logins: RepeatedLogins, clients: OpenClients
) -> None:
    """It is restarted and used; logged-in sessions go on."""
    held = clients.log_in(proxy)
    workers = pids(proxy, "worker")
    before = the_helper(proxy)

    kill(*before)
    expect_another(proxy, "helper", before, 1)
    logins.start_counting()
    logins.expect_successes(deadline=2 * DEADLINE)  # a user under way waits for an OK in vain

    held.use()
    assert pids(proxy, "worker") == workers, proxy.evidence()


def test_logins_continue_without_the_helper_supervisor(
    proxy: PerditionProcess, logins: RepeatedLogins, clients: OpenClients
) -> None:
    """The helper and the logins go on without it; the log tells the operator what to do."""
    held = clients.log_in(proxy)
    workers = pids(proxy, "worker")
    helper = the_helper(proxy)
    logins.start_counting()

    kill(*pids(proxy, "helper supervisor"))
    proxy.wait_for_log("helper supervisor died.*restarted")
    logins.expect_successes()

    held.use()
    assert not logins.failures, logins.failures
    assert (pids(proxy, "worker"), the_helper(proxy)) == (workers, helper)


def test_helper_without_its_supervisor_ends_with_the_master(
    proxy: PerditionProcess, logins: RepeatedLogins
) -> None:
    """A helper without its supervisor ends with the master."""
    kill(*pids(proxy, "helper supervisor"))
    proxy.wait_for_log("helper supervisor died")

    assert proxy.terminate() == 0, proxy.evidence()
    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", SOON)


def test_all_processes_exit_if_the_master_is_killed(
    proxy: PerditionProcess, logins: RepeatedLogins, clients: OpenClients
) -> None:
    """All other processes end, with Close lines; the next master can bind the address."""
    held = clients.log_in(proxy)

    kill(proxy.pid)
    proxy.wait()
    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", SOON)

    held.read_to_end()
    proxy.wait_for_log(f"Close: {held.own_address}->")
    assert refuses_connections(proxy.address)


def test_all_processes_of_a_daemon_exit_if_its_master_is_killed(
    perditions: Perditions, clients: OpenClients
) -> None:
    """Its stale pid file does not prevent the next start."""
    first = perditions.start_daemon("imap4", *FEW)
    kill(first.pid)
    assert first.wait() == -signal.SIGKILL
    until(lambda: not first.processes(), first.evidence, SOON)
    assert first.written_pid() == first.pid

    second = perditions.new_daemon("imap4", *FEW, pid_file=first.pid_file)
    second.launch()
    until(lambda: second.written_pid() not in (0, first.pid), second.evidence)
    with second.running():
        clients.log_in(second).use()


def test_nothing_is_left_if_master_and_worker_are_killed_at_once(
    proxy: PerditionProcess, logins: RepeatedLogins
) -> None:
    """As the kernel's OOM killer may do: no process is left."""
    victims = [proxy.pid, *pids(proxy, "worker"), *pids(proxy, "helper supervisor")]
    for victim in victims:
        kill(victim)
    proxy.wait()

    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", SOON)


@pytest.mark.slow
def test_worker_that_dies_at_once_is_restarted_with_delays(
    perditions: Perditions, clients: OpenClients
) -> None:
    """It is restarted with growing delays until it lives; the other worker serves meanwhile."""
    proxy = perditions.start("imap4", *FEW)
    survivor, _ = sorted(both_workers(proxy))

    def delays_of_the_doomed() -> list[float] | None:
        for pid in pids(proxy, "worker") - {survivor}:
            kill(pid)
        found = announced_delays(proxy)
        return found if len(found) >= 2 else None

    delays = until(delays_of_the_doomed, lambda: f"two delays\n{proxy.evidence()}")

    assert delays[0] < delays[1], f"a tight loop: {delays}"
    deaths = proxy.logged(r"worker \d+ \(pid \d+\) was killed by SIGKILL")
    assert len(deaths) <= len(delays) + 2, proxy.evidence()
    clients.log_in(proxy).use()

    assert survivor in both_workers(proxy)
    assert proxy.terminate() == 0, proxy.evidence()


@pytest.fixture
def endless_map() -> Iterator[tuple[str, ...]]:
    """The options for a popmap of our own, in the folder of this system's packages."""
    [packages] = [Path(path) for path in sys.path if path.startswith("/usr/local/lib/")]
    packages.mkdir(parents=True, exist_ok=True)
    with saved(packages / "endless") as package, saved(packages / "endless-1.dist-info") as data:
        package.mkdir()
        (package / "__init__.py").write_text(ENDLESS_MAP)
        data.mkdir()
        (data / "METADATA").write_text("Metadata-Version: 2.1\nName: endless\nVersion: 1\n")
        (data / "entry_points.txt").write_text("[perdition.popmaps]\nendless = endless:Endless\n")
        yield "-M", "endless"


@pytest.mark.slow
def test_spinning_worker_without_a_master_is_killed(
    endless_map: tuple[str, ...], perditions: Perditions, clients: OpenClients
) -> None:
    """A master would restart it. Without one it exits, and the next master can bind the port."""
    proxy = perditions.start("imap4", "--workers", "1", *endless_map)
    clients.connect(proxy).send(b"a LOGIN joe pw\r\n")
    [worker] = pids(proxy, "worker")
    until(lambda: ProcessInfo(worker).cpu_seconds() > 1, lambda: f"it spins\n{proxy.evidence()}")

    kill(proxy.pid)
    proxy.wait()

    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", 60)
    assert refuses_connections(proxy.address)


@pytest.mark.slow
def test_stuck_worker_is_replaced(perditions: Perditions, clients: OpenClients) -> None:
    """Only its own sessions are held up; it is killed and restarted."""
    proxy = perditions.start("imap4", *FEW)
    before = both_workers(proxy)
    victim = min(before)

    os.kill(victim, signal.SIGSTOP)
    killed = rf"worker 1 \(pid {victim}\) is stuck: no heartbeat in 5 checks"
    until(lambda: proxy.logged(killed), lambda: f"it is killed\n{proxy.evidence()}", 60)
    after = expect_another(proxy, "worker", before, len(before))
    clients.log_in(proxy).use()

    assert len(after & before) == len(before) - 1, proxy.evidence()
    assert len(proxy.logged("is stuck")) == 1, proxy.evidence()


@pytest.mark.parametrize(("resource", "count"), [("nofile", 3), ("nproc", 1)])
def test_worker_that_cannot_be_forked_is_started_later(
    resource: str, count: int, perditions: Perditions, clients: OpenClients
) -> None:
    """If fork fails, the other workers go on, the log says so, and it is started once fork
    succeeds.
    """
    proxy = perditions.start("imap4", *FEW, "-u", "12345")
    survivor, victim = sorted(both_workers(proxy))
    limit(proxy, resource, count)

    kill(victim)
    proxy.wait_for_log("cannot fork worker 2")
    clients.log_in(proxy).use()
    assert survivor in pids(proxy, "worker")

    limit(proxy, resource, 1000)
    until(lambda: len(pids(proxy, "worker")) == 2, lambda: f"two workers\n{proxy.evidence()}", SOON)
    assert len(proxy.logged("cannot fork worker 2")) < 10, proxy.evidence()
    assert proxy.terminate() == 0, proxy.evidence()


def limit(proxy: PerditionProcess, resource: str, count: int) -> None:
    """Set a resource limit of the master, so that its own user may raise it again."""
    uids, gids, _ = ProcessInfo(proxy.pid).ids()
    subprocess.run(
        [
            *("setpriv", "--reuid", *uids, "--regid", *gids, "--clear-groups"),
            *("prlimit", "--pid", str(proxy.pid), f"--{resource}={count}:"),
        ],
        check=True,
    )


def announced_delays(proxy: PerditionProcess) -> list[float]:
    """The restart delays in the log, in order."""
    lines = proxy.logged(r"worker \d+ \(pid")
    return [float(found[1]) for line in lines if (found := re.search(r"in ([\d.]+) s$", line))]
