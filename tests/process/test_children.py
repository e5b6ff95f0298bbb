"""kill -9 of each kind of process in turn, while users log in: what goes on, and what returns."""

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
"""How long a user would wait for what is to come back."""

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
    """Some have logged in already, and they go on."""
    with RepeatedLogins(proxy, PASSWORD) as found:
        found.expect_successes()
        yield found


def pids(proxy: PerditionProcess, kind: str) -> set[int]:
    """The processes of that kind; those that ask PAM are of none."""
    form = re.compile(rf"{proxy.name}: {kind}( \d.*)?")
    return {each.pid for each in proxy.processes() if form.fullmatch(each.title)}


def the_helper(proxy: PerditionProcess) -> set[int]:
    """The helper, once nobody else has its title: what asks PAM has it at first."""

    def look() -> set[int] | None:
        found = pids(proxy, "helper")
        return found if len(found) == 1 else None

    return until(look, proxy.evidence)


def both_workers(proxy: PerditionProcess) -> set[int]:
    """The two workers, once both are there: perdition listens before."""

    def look() -> set[int] | None:
        found = pids(proxy, "worker")
        return found if len(found) == 2 else None

    return until(look, lambda: f"two workers\n{proxy.evidence()}")


def kill(pid: int) -> None:
    """kill -9."""
    os.kill(pid, signal.SIGKILL)


def expect_another(proxy: PerditionProcess, kind: str, old: set[int], count: int) -> set[int]:
    """Wait until as many as there were are there, without the one that was killed."""

    def look() -> set[int] | None:
        now = pids(proxy, kind)
        return now if len(now) == count and now != old else None

    return until(look, lambda: f"another {kind} than {old}\n{proxy.evidence()}", SOON)


def test_worker(proxy: PerditionProcess, logins: RepeatedLogins, clients: OpenClients) -> None:
    """Another one comes; the others' sessions and everybody's logins go on; the log tells."""
    held = [clients.log_in(proxy) for _ in range(10)]
    before = pids(proxy, "worker")
    victim = min(before)

    kill(victim)
    after = expect_another(proxy, "worker", before, len(before))
    logins.start_counting()
    logins.expect_successes()

    assert len(after & before) == len(before) - 1, proxy.evidence()
    [line] = proxy.wait_for_log(rf"worker 1 \(pid {victim}\) died of SIGKILL with \d+ session")
    lost = int(re.findall(r"with (\d+) session", line)[0])
    ended = sum(fails(each.use) for each in held)
    # One of the users who come and go may have been lost as well.
    assert lost - 1 <= ended <= lost, f"{ended} sessions ended, {line}"
    assert len(logins.failures) <= 1, logins.failures


def test_workers_share_no_line(perditions: Perditions, pam_permits: None) -> None:
    """Nobody can ask the helper, or get orders, in another's place: only clients are for all."""
    proxy = perditions.start("imap4", *WITH_HELPER)
    before = both_workers(proxy)
    kill(min(before))
    workers = [ProcessInfo(pid) for pid in expect_another(proxy, "worker", before, len(before))]

    one, two = (worker.sockets() for worker in workers)

    assert len(one & two) == 1, f"{workers} have {one} and {two}"


def test_workers_again_and_again(proxy: PerditionProcess, logins: RepeatedLogins) -> None:
    """Each of them in turn, several times: users hardly see it, and none is lost for good."""
    for _ in range(3):
        for victim in sorted(pids(proxy, "worker")):
            before = pids(proxy, "worker")
            kill(victim)
            expect_another(proxy, "worker", before, len(before))
            logins.start_counting()
            logins.expect_successes()
    assert proxy.terminate() == 0, proxy.evidence()


def test_helper(proxy: PerditionProcess, logins: RepeatedLogins, clients: OpenClients) -> None:
    """Another one comes and is asked; who is logged in notices nothing."""
    held = clients.log_in(proxy)
    workers = pids(proxy, "worker")
    before = the_helper(proxy)

    kill(*before)
    expect_another(proxy, "helper", before, 1)
    logins.start_counting()
    logins.expect_successes(deadline=2 * DEADLINE)  # a user under way waits for an OK in vain

    held.use()
    assert pids(proxy, "worker") == workers, proxy.evidence()


def test_keeper(proxy: PerditionProcess, logins: RepeatedLogins, clients: OpenClients) -> None:
    """The helper goes on without it, and so do users; an operator is told what to do."""
    held = clients.log_in(proxy)
    workers = pids(proxy, "worker")
    helper = the_helper(proxy)
    logins.start_counting()

    kill(*pids(proxy, "keeper"))
    proxy.wait_for_log("keeper has died.*restart")
    logins.expect_successes()

    held.use()
    assert not logins.failures, logins.failures
    assert (pids(proxy, "worker"), the_helper(proxy)) == (workers, helper)


def test_keeper_then_the_end(proxy: PerditionProcess, logins: RepeatedLogins) -> None:
    """A helper that nobody keeps any more ends with the others."""
    kill(*pids(proxy, "keeper"))
    proxy.wait_for_log("keeper has died")

    assert proxy.terminate() == 0, proxy.evidence()
    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", SOON)


def test_master(proxy: PerditionProcess, logins: RepeatedLogins, clients: OpenClients) -> None:
    """All others end, with closing lines; the address is free for the next master."""
    held = clients.log_in(proxy)

    kill(proxy.pid)
    proxy.wait()
    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", SOON)

    held.read_to_end()
    proxy.wait_for_log(f"Close: {held.own_address}->")
    assert refuses_connections(proxy.address)


def test_master_of_a_daemon(perditions: Perditions, clients: OpenClients) -> None:
    """Its pid file stays behind, and does not keep the next one from starting."""
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


def test_master_and_worker_at_once(proxy: PerditionProcess, logins: RepeatedLogins) -> None:
    """As the kernel may do when memory runs out: nobody is left."""
    victims = [proxy.pid, *pids(proxy, "worker"), *pids(proxy, "keeper")]
    for victim in victims:
        kill(victim)
    proxy.wait()

    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", SOON)


def test_worker_that_dies_at_once(perditions: Perditions, clients: OpenClients) -> None:
    """It is tried again, ever more rarely, until it lives; the other one serves meanwhile."""
    proxy = perditions.start("imap4", *FEW)
    survivor, _ = sorted(both_workers(proxy))

    def delays_of_the_doomed() -> list[float] | None:
        for pid in pids(proxy, "worker") - {survivor}:
            kill(pid)
        found = announced_delays(proxy)
        return found if len(found) >= 2 else None

    delays = until(delays_of_the_doomed, lambda: f"two delays\n{proxy.evidence()}")

    assert delays[0] < delays[1], f"a tight loop: {delays}"
    deaths = proxy.logged(r"worker \d+ \(pid \d+\) died of SIGKILL")
    assert len(deaths) <= len(delays) + 2, proxy.evidence()
    clients.log_in(proxy).use()

    assert survivor in both_workers(proxy)
    assert proxy.terminate() == 0, proxy.evidence()


@pytest.fixture
def endless_map() -> Iterator[tuple[str, ...]]:
    """The option for a popmap of the site's own, where all of this system's packages are."""
    [packages] = [Path(path) for path in sys.path if path.startswith("/usr/local/lib/")]
    packages.mkdir(parents=True, exist_ok=True)
    with saved(packages / "endless") as package, saved(packages / "endless-1.dist-info") as data:
        package.mkdir()
        (package / "__init__.py").write_text(ENDLESS_MAP)
        data.mkdir()
        (data / "METADATA").write_text("Metadata-Version: 2.1\nName: endless\nVersion: 1\n")
        (data / "entry_points.txt").write_text("[perdition.popmaps]\nendless = endless:Endless\n")
        yield "-M", "endless"


def test_worker_that_spins_without_a_master(
    endless_map: tuple[str, ...], perditions: Perditions, clients: OpenClients
) -> None:
    """A master would replace it; it does not keep the port from the next one either way."""
    proxy = perditions.start("imap4", "--workers", "1", *endless_map)
    clients.connect(proxy).send(b"a LOGIN joe pw\r\n")
    [worker] = pids(proxy, "worker")
    until(lambda: ProcessInfo(worker).cpu_seconds() > 1, lambda: f"it spins\n{proxy.evidence()}")

    kill(proxy.pid)
    proxy.wait()

    until(lambda: not proxy.processes(), lambda: f"nobody is left\n{proxy.evidence()}", 60)
    assert refuses_connections(proxy.address)


def test_worker_that_is_stuck(perditions: Perditions, clients: OpenClients) -> None:
    """It holds up no more than its own sessions: it is noticed, killed and replaced."""
    proxy = perditions.start("imap4", *FEW)
    before = both_workers(proxy)
    victim = min(before)

    os.kill(victim, signal.SIGSTOP)
    killed = rf"worker 1 \(pid {victim}\) is stuck and is killed"
    until(lambda: proxy.logged(killed), lambda: f"it is killed\n{proxy.evidence()}", 60)
    after = expect_another(proxy, "worker", before, len(before))
    clients.log_in(proxy).use()

    assert len(after & before) == len(before) - 1, proxy.evidence()
    assert len(proxy.logged("is stuck")) == 1, proxy.evidence()


@pytest.mark.parametrize(("resource", "count"), [("nofile", 3), ("nproc", 1)])
def test_worker_that_cannot_start(
    resource: str, count: int, perditions: Perditions, clients: OpenClients
) -> None:
    """The system has no room for it: the others go on, the log tells, and once it can it comes."""
    proxy = perditions.start("imap4", *FEW, "-u", "12345")
    survivor, victim = sorted(both_workers(proxy))
    limit(proxy, resource, count)

    kill(victim)
    proxy.wait_for_log("worker 2 cannot start")
    clients.log_in(proxy).use()
    assert survivor in pids(proxy, "worker")

    limit(proxy, resource, 1000)
    until(lambda: len(pids(proxy, "worker")) == 2, lambda: f"two workers\n{proxy.evidence()}", SOON)
    assert len(proxy.logged("worker 2 cannot start")) < 10, proxy.evidence()
    assert proxy.terminate() == 0, proxy.evidence()


def limit(proxy: PerditionProcess, resource: str, count: int) -> None:
    """Have the system give the master no more than that; its own user may change it again."""
    uids, gids, _ = ProcessInfo(proxy.pid).ids()
    subprocess.run(
        [
            *("setpriv", "--reuid", *uids, "--regid", *gids, "--clear-groups"),
            *("prlimit", "--pid", str(proxy.pid), f"--{resource}={count}:"),
        ],
        check=True,
    )


def announced_delays(proxy: PerditionProcess) -> list[float]:
    """How long the log says that workers have to wait, in turn, where they have to."""
    lines = proxy.logged(r"worker \d+ \(pid")
    return [float(found[1]) for line in lines if (found := re.search(r"in ([\d.]+) s$", line))]
