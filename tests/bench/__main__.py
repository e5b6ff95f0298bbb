"""Measures perdition: what logins, sessions, gigabytes and starts for inetd cost."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from statistics import median, quantiles

from tests.bench import load, nginx
from tests.bench.load import Connect
from tests.support.folders import BIN, ROOT, public_folder
from tests.support.perdition import PerditionProcess, popmap
from tests.support.wait import until

ROUNDS = 5
LOGIN_ROUNDS = 200
LOGINS = 80
STARTS = 20
SESSIONS = 2000
TRACED_LOGINS = 400
GIGABYTE = 1024
"""MiB."""
NANOSECOND = 1e-9


@contextmanager
def stub() -> Iterator[tuple[int, int]]:
    """Run the stub; gives its POP3 and IMAP4 ports."""
    command = ["prlimit", "--nofile=16384", sys.executable, "-m", "tests.bench.stub"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pop3, imap4 = process.stdout.readline().split()
        try:
            yield int(pop3), int(imap4)
        finally:
            process.kill()


def cpu_seconds(pids: list[int]) -> float:
    """Return what the threads of processes have used of the CPU, to the nanosecond."""
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    used = [int((thread / "schedstat").read_text().split()[0]) for thread in threads]
    return sum(used) * NANOSECOND


def all_processes(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def cost(pid: int, work: Callable[[], object]) -> float:
    """Return the CPU seconds that a family of processes spends on some work."""
    pids = all_processes(pid)
    before = cpu_seconds(pids)
    work()
    return cpu_seconds(pids) - before


def dirty_kib(pid: int) -> int:
    """Return the memory that a process has for itself alone."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Private_Dirty:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found
    return int(found[1])


def report(what: str, figures: list[float], unit: str) -> None:
    """Print the median of figures with their range."""
    middle = median(figures)
    print(f"{what:<52} {middle:8.2f} {unit}  ({min(figures):.2f} to {max(figures):.2f})")


def measure_logins(folder: Path, pop3: int, imap4: int) -> None:
    """Print the CPU and the system calls of a login, with a popmap and without."""
    for protocol, port in (("pop3", pop3), ("imap4", imap4)):
        file = popmap(folder / f"{protocol}.db", {"joe": f"127.0.0.1:{port}"})
        imap = protocol == "imap4"
        with (
            PerditionProcess(protocol, folder, "-M", "", "-s", f"127.0.0.1:{port}") as without,
            PerditionProcess(protocol, folder, "-M", "gdbm", "-m", file) as mapped,
        ):
            bare, full = login_costs(without, mapped, imap)
            report(f"{protocol} login without a popmap", bare, "us CPU")
            report(f"{protocol} login with gdbm", full, "us CPU")
            report_ratio("    with gdbm : without", bare, full)
            if which("strace"):
                calls = system_calls(mapped, load.plain(mapped.port), imap)
                print(f"{f'{protocol} login with gdbm':<52} {calls:8.2f} system calls")


def login_costs(
    first: PerditionProcess, second: PerditionProcess, imap: bool
) -> tuple[list[float], list[float]]:
    """Return what a login costs at each, in microseconds of CPU: a figure a round.

    The rounds are short and the two take turns, also at being the first of a round, so that what
    else the machine does meets both alike.
    """
    figures: dict[PerditionProcess, list[float]] = {first: [], second: []}
    for proxy in figures:
        load.logins(load.plain(proxy.port), imap, LOGINS)
    for number in range(LOGIN_ROUNDS):
        for proxy in (first, second) if number % 2 else (second, first):
            connect = load.plain(proxy.port)
            used = cost(proxy.pid, lambda: load.logins(connect, imap, LOGINS))  # noqa: B023
            figures[proxy].append(used / LOGINS * 1e6)
    return figures[first], figures[second]


def report_ratio(what: str, below: list[float], above: list[float]) -> None:
    """Print the median of the rounds' ratios, and where the middle half of them is."""
    low, middle, high = quantiles([b / a for a, b in zip(below, above, strict=True)], n=4)
    print(f"{what:<52} {middle:8.3f}  (half of the rounds: {low:.3f} to {high:.3f})")


def system_calls(proxy: PerditionProcess, connect: Connect, imap: bool) -> float:
    """Return how many system calls the workers make for a login."""
    load.logins(connect, imap, 100)
    tracers = [
        subprocess.Popen(
            ["strace", "-c", "-f", "-p", str(worker.pid)], stderr=subprocess.PIPE, text=True
        )
        for worker in proxy.workers()
    ]
    for worker in proxy.workers():
        until(lambda: "TracerPid:\t0" not in status(worker.pid), "strace is there")  # noqa: B023
    load.logins(connect, imap, TRACED_LOGINS)
    total = 0
    for tracer in tracers:
        tracer.send_signal(signal.SIGINT)
        table = tracer.communicate()[1]
        last = [line.split() for line in table.splitlines() if line.endswith("total")]
        total += int(last[0][3]) if last else 0
    return total / TRACED_LOGINS


def status(pid: int) -> str:
    """Return what the system tells of a process."""
    return Path(f"/proc/{pid}/status").read_text()


def measure_sessions(folder: Path, pop3: int, tls_options: list[str]) -> None:
    """Print the memory of an idle session."""
    server = ["-M", "", "-s", f"127.0.0.1:{pop3}", "--workers", "1"]
    for what, options, connect_to in (("plain", [], load.plain), ("TLS", tls_options, load.tls)):
        with PerditionProcess("pop3", folder, *server, *options) as proxy:
            [worker] = proxy.workers()
            connect = connect_to(proxy.port)
            few = [load.log_in(connect) for _ in range(100)]
            before = dirty_kib(worker.pid)
            many = [load.log_in(connect) for _ in range(SESSIONS)]
            figure = (dirty_kib(worker.pid) - before) / SESSIONS
            print(f"{f'idle session, {what}':<52} {figure:8.2f} KiB")
            for client in few + many:
                client.close()


def measure_bulk(folder: Path, pop3: int, tls_options: list[str], pair: tuple[Path, Path]) -> None:
    """Print the CPU of a gigabyte, beside nginx's if that is here."""
    server = ["-M", "", "-s", f"127.0.0.1:{pop3}", "--workers", "1"]
    with (
        PerditionProcess("pop3", folder, *server) as plain,
        PerditionProcess("pop3", folder, *server, *tls_options) as secure,
    ):
        subjects = {
            "gigabyte, plain, perdition": (plain.pid, load.plain(plain.port)),
            "gigabyte, TLS, perdition": (secure.pid, load.tls(secure.port)),
        }
        if nginx.missing():
            compare(subjects)
            return
        with nginx.running(folder, pop3, *pair) as (pid, plain_port, tls_port):
            subjects["gigabyte, plain, nginx"] = (pid, load.plain(plain_port))
            subjects["gigabyte, TLS, nginx"] = (pid, load.tls(tls_port))
            compare(subjects)


def compare(subjects: dict[str, tuple[int, Connect]]) -> None:
    """Have each subject move a gigabyte in turn, several times."""
    figures: dict[str, list[float]] = {what: [] for what in subjects}
    for _ in range(ROUNDS):
        for what, (pid, connect) in subjects.items():
            figures[what].append(cost(pid, lambda: load.fetch(connect, GIGABYTE)))  # noqa: B023
    for what, found in figures.items():
        report(what, found, "s CPU")


def measure_starts(tls_options: list[str]) -> None:
    """Print the CPU of a session's process from its start by a super-server to its greeting."""
    for protocol in ("pop3", "imap4", "managesieve"):
        for what, options in (("plain", []), ("TLS", tls_options)):
            figures = [start(protocol, options) for _ in range(STARTS)]
            report(f"{protocol} session for inetd, {what}", figures, "ms CPU")


def start(protocol: str, options: list[str]) -> float:
    """Return the milliseconds of CPU that a process has used when its client is greeted."""
    command = [str(BIN / f"perdition.{protocol}"), "-i", "-f", "", "-M", "", "-s", "127.0.0.1:1"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = load.plain(listening.getsockname()[1])()
        accepted, _ = listening.accept()
    with accepted:
        process = subprocess.Popen(
            [*command, *options], stdin=accepted.fileno(), stdout=accepted.fileno()
        )
    if options:
        client = load.tls_context().wrap_socket(client)
    with process, client:
        assert client.recv(4096)
        return cpu_seconds([process.pid]) * 1000


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for these measurements; return it and its key."""
    certificate, key = folder / "bench.crt", folder / "bench.key"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=bench"]
    subprocess.run(
        [*command, "-keyout", key, "-out", certificate, "-days", "1"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    key.chmod(0o644)
    return certificate, key


def main() -> None:
    """Measure everything."""
    with public_folder() as folder, stub() as (pop3, imap4):
        pair = make_certificate(folder)
        tls_options = [
            *("--ssl_mode", "ssl_listen"),
            *("--ssl_cert_file", str(pair[0]), "--ssl_key_file", str(pair[1])),
        ]
        measure_logins(folder, pop3, imap4)
        measure_sessions(folder, pop3, tls_options)
        measure_bulk(folder, pop3, tls_options, pair)
        measure_starts(tls_options)


if __name__ == "__main__":
    main()
