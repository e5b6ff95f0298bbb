"""The metrics of a running perdition for Prometheus, which delay no client."""

import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest

from perdition import failure
from perdition.failure import FAILURES, Failure
from tests.bench.__main__ import make_certificate
from tests.support.client_connection import LoggedInClient, RawConnection
from tests.support.imap_stub import imap_stub
from tests.support.metrics import Figures, Scraper
from tests.support.perdition import PerditionProcess, popmap
from tests.support.processes import ProcessInfo, free_ports, listening
from tests.support.real_server import RealServer
from tests.support.wait import DEADLINE, until

PASSWORD = "secret-of-joe"
NOBODY = 65534
MANY = 40

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with RealServer("small", {"joe": PASSWORD}) as found:
        yield found


@pytest.fixture
def scraper() -> Scraper:
    [port] = free_ports(1)
    return Scraper(("127.0.0.1", port))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def proxy(folder: Path, server: RealServer, scraper: Scraper) -> Iterator[PerditionProcess]:
    """A perdition with metrics."""
    with PerditionProcess(
        "imap4", folder, *target(server), *scraper.option, "--workers", "2"
    ) as found:
        yield found


def target(server: RealServer) -> tuple[str, ...]:
    """The options that make the real server everybody's."""
    return ("-M", "", "-s", server.server("imap4"))


def log_in(proxy: PerditionProcess) -> LoggedInClient:
    return LoggedInClient(proxy.address, "imap4", "joe", PASSWORD)


def process_of(proxy: PerditionProcess, title: str) -> ProcessInfo:
    """Wait for the process of perdition with that title."""
    return until(
        lambda: next((one for one in proxy.processes() if one.title.endswith(f": {title}")), None),
        lambda: f"a process {title}\n{proxy.evidence()}",
    )


def test_session_is_counted_from_connection_to_end(
    proxy: PerditionProcess, scraper: Scraper
) -> None:
    with RawConnection.to(proxy.address) as client:
        client.read_line()
        scraper.expect(1, "sessions", "before_login")
    scraper.expect(0, "sessions", "before_login")
    assert scraper.value("connections_total") == 1

    client = log_in(proxy)
    scraper.expect(1, "sessions", "established")
    client.use()
    client.log_out()
    scraper.expect(0, "sessions", "established")

    stage = "login_stage_duration_seconds_count"
    for count, name, *labels in (
        (2, "connections_total"),
        (1, "logins_total", "ok"),
        (1, "popmap_answers_total", "missing"),
        (client.sent, "session_bytes_total", "received"),
        (client.received, "session_bytes_total", "sent"),
        (2, "workers_started_total"),
        (0, "workers_died_total"),
        (1, stage, "map"),
        (0, stage, "local_authentication"),
        (1, stage, "connect"),
        (1, stage, "login"),
    ):
        assert scraper.value(str(name), *map(str, labels)) == count, (name, labels)


def test_bytes_are_counted_during_a_session(proxy: PerditionProcess, scraper: Scraper) -> None:
    with log_in(proxy) as client:
        client.use()
        scraper.expect(client.sent, "session_bytes_total", "received")
        scraper.expect(client.received, "session_bytes_total", "sent")


GOOD = b"* OK [CAPABILITY IMAP4rev1] ready"
MEETINGS: dict[type[Failure], tuple[bytes, bool]] = {
    failure.ServerTLSNotPresent: (GOOD, False),
    failure.ServerRefused: (GOOD + b"\r\n* BYE too busy", False),
    failure.NegotiationFailed: (b"hello", False),
    failure.ServerGone: (GOOD, True),
    failure.MechanismUnavailable: (b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED] ready", False),
}
"""The real server's greeting that causes a failure, and whether it then disconnects."""

CERTIFICATE = ("--ssl_cert_file", "{certificate}", "--ssl_key_file", "{key}")
OPTIONS: dict[type[Failure], tuple[str, ...]] = {
    failure.LoginDisabled: ("-M", "", "--login_disabled"),
    failure.TLSNotPresent: ("-M", "", "--ssl_mode", "tls_listen_force", *CERTIFICATE),
    failure.ServerTLSNotPresent: ("-M", "", "--ssl_mode", "tls_outgoing_force"),
    failure.ServerRefused: ("-M", ""),
    failure.Rejected: ("-M", "", "-s", "{server}"),
    failure.ConnectedToItself: ("-M", "", "-s", "127.0.0.1:{port}"),
    failure.NoServer: ("-M", ""),
    failure.MapUnavailable: ("-M", "gdbm", "-m", "/nonexistent/popmap"),
    failure.LocalAuthenticationFailed: ("-M", "", "-s", "{server}", "-a"),
    failure.LocalAuthenticationUnavailable: ("-M", "", "-s", "{server}", "-a"),
    failure.ConnectFailed: ("-M", "", "-s", "127.0.0.1:1"),
    failure.LoginTimedOut: ("-M", "", "-s", "127.0.0.1:{silent}", "--login_timeout", "1"),
    failure.NegotiationFailed: ("-M", ""),
    failure.ServerGone: ("-M", ""),
    failure.MechanismUnavailable: ("-M", ""),
}
"""The options that cause a failure."""


@needs_root
@pytest.mark.parametrize("failed", FAILURES, ids=lambda failed: failed.label)
def test_each_failure_is_counted(
    failed: type[Failure], folder: Path, server: RealServer, scraper: Scraper, stack: ExitStack
) -> None:
    proxy = PerditionProcess("imap4", folder, *scraper.option)
    certificate, key = make_certificate(folder)
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    where = {
        "server": server.server("imap4"),
        "port": proxy.port,
        "silent": silent,
        "certificate": certificate,
        "key": key,
    }
    proxy.command += [option.format(**where) for option in OPTIONS[failed]]
    if failed in MEETINGS:
        proxy.command += stack.enter_context(imap_stub(*MEETINGS[failed])).option
    stack.enter_context(proxy)
    if failed is failure.LocalAuthenticationUnavailable:
        end_helper(proxy)

    client = stack.enter_context(RawConnection.to(proxy.address))
    client.read_line()
    client.send(b"a LOGIN joe wrong\r\n")

    scraper.expect(1, "logins_total", failed.label)
    figures = scraper.figures()
    assert sum(count for (name, _), count in figures.items() if "logins_total" in name) == 1
    asked = failed.label.startswith("local_authentication")
    assert scraper.value("login_stage_duration_seconds_count", "local_authentication") == asked


def end_helper(proxy: PerditionProcess) -> None:
    """Kill the helper and its supervisor."""
    for title in ("helper supervisor", "helper"):
        os.kill(process_of(proxy, title).pid, signal.SIGKILL)


def test_popmap_answers_are_counted(folder: Path, server: RealServer, scraper: Scraper) -> None:
    file = popmap(folder / "popmap.db", {"joe": server.server("imap4")})
    with (
        PerditionProcess("imap4", folder, "-M", "gdbm", "-m", file, *scraper.option) as proxy,
        RawConnection.to(proxy.address) as stranger,
    ):
        log_in(proxy).close()
        stranger.send(b"a LOGIN stranger word\r\n")
        scraper.expect(1, "popmap_answers_total", "missing")
        scraper.expect(1, "popmap_answers_total", "found")
        file.unlink()
        with RawConnection.to(proxy.address) as client:
            client.send(b"a LOGIN joe word\r\n")
            scraper.expect(1, "popmap_answers_total", "unavailable")


def test_tls_versions_are_counted(folder: Path, scraper: Scraper, stack: ExitStack) -> None:
    certificate, key = make_certificate(folder)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, key)
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = stack.enter_context(imap_stub(GOOD, tls=server_context))
    identity = ("--ssl_cert_file", certificate, "--ssl_key_file", key)
    modes = ("--ssl_mode", "ssl_all", "--ssl_no_cert_verify", "--ssl_no_cn_verify")
    proxy = stack.enter_context(
        PerditionProcess(
            "imap4", folder, "-M", "", *server.option, *identity, *modes, *scraper.option
        )
    )
    client_context = ssl.create_default_context(cafile=certificate)
    client_context.check_hostname = False
    sock = client_context.wrap_socket(socket.create_connection(proxy.address, DEADLINE))
    with RawConnection(sock) as client:
        client.read_line()
        client.ask(b"a LOGIN joe word", rb"a OK.*\r\n")
        scraper.expect(1, "tls_logins_total", "client", "TLSv1.3")
        scraper.expect(1, "tls_logins_total", "real_server", "TLSv1.2")


def test_limits_hit_are_counted(folder: Path, server: RealServer, scraper: Scraper) -> None:
    limits = ("--workers", "1", "-L", "2", "--connections_per_client", "1")
    with (
        PerditionProcess("imap4", folder, *target(server), *limits, *scraper.option) as proxy,
        ExitStack() as clients,
    ):
        for host in (1, 1, 2, 3):
            source = (f"127.0.0.{host}", 0)
            clients.enter_context(socket.create_connection(proxy.address, DEADLINE, source))
        scraper.expect(1, "limits_hit_total", "connections_per_client")
        scraper.expect(1, "limits_hit_total", "connection_limit")
        assert scraper.value("connections_total") == 2


def test_lack_of_descriptors_is_counted(folder: Path, server: RealServer, scraper: Scraper) -> None:
    proxy = PerditionProcess("imap4", folder, *target(server), *scraper.option, "--workers", "1")
    proxy.command[:0] = ["prlimit", f"--nofile={MANY}:{MANY}"]
    with proxy, ExitStack() as clients:
        for _ in range(MANY):
            clients.enter_context(socket.create_connection(proxy.address, DEADLINE))
        until(lambda: scraper.value("limits_hit_total", "descriptors") >= 1, proxy.evidence)


class MonotonicCounters:
    """The counters of the last scrape, none of which may decrease."""

    def __init__(self, scraper: Scraper) -> None:
        self._scraper = scraper
        self._seen = self._look()

    def _look(self) -> Figures:
        """All figures but the gauge."""
        figures = self._scraper.figures()
        return {key: count for key, count in figures.items() if key[0] != "perdition_sessions"}

    def wait_for(self, count: float, name: str, *labels: str) -> None:
        """Scrape until a counter reaches *count*; fail if any other decreases meanwhile."""

        def is_there() -> bool:
            before, self._seen = self._seen, self._look()
            fallen = {key for key, earlier in before.items() if self._seen[key] < earlier}
            assert not fallen
            return self._seen[f"perdition_{name}", frozenset(labels)] >= count

        until(is_there, f"{name} of {count}")


def keep_logging_in(proxy: PerditionProcess, over: Event) -> None:
    """Log in repeatedly, and ignore failures."""
    while not over.is_set():
        # Its worker may be killed at any time.
        with suppress(AssertionError, OSError), RawConnection.to(proxy.address) as client:
            client.read_line()
            client.ask(f"a LOGIN joe {PASSWORD}".encode(), rb"a OK.*\r\n")


def test_counters_survive_workers_that_are_killed(
    proxy: PerditionProcess, scraper: Scraper
) -> None:
    over = Event()
    traffic = Thread(target=keep_logging_in, args=(proxy, over))
    traffic.start()
    try:
        counters = MonotonicCounters(scraper)
        for killed, worker in enumerate(proxy.workers(), 1):
            counters.wait_for(killed * 20, "logins_total", "ok")
            os.kill(worker.pid, signal.SIGKILL)
            counters.wait_for(killed, "workers_died_total")
            counters.wait_for(2 + killed, "workers_started_total")
        counters.wait_for(60, "logins_total", "ok")
    finally:
        over.set()
        traffic.join()
    scraper.expect(0, "sessions", "established")
    scraper.expect(0, "sessions", "before_login")


def test_metrics_process_is_replaced(proxy: PerditionProcess, scraper: Scraper) -> None:
    with log_in(proxy) as client:
        old = process_of(proxy, "metrics")
        os.kill(old.pid, signal.SIGKILL)
        proxy.wait_for_log(rf"metrics \(pid {old.pid}\) was killed by SIGKILL; restarting now")
        until(lambda: process_of(proxy, "metrics").pid != old.pid, proxy.evidence)
        client.use()
        scraper.expect(1, "logins_total", "ok")
        assert scraper.value("workers_died_total") == 0


def test_metrics_process_that_dies_at_once_is_replaced_later(proxy: PerditionProcess) -> None:
    def waits_after_another_death() -> bool:
        pid = process_of(proxy, "metrics").pid
        os.kill(pid, signal.SIGKILL)
        [death] = proxy.wait_for_log(rf"metrics \(pid {pid}\) was killed by SIGKILL")
        return death.endswith("restarting in 1 s")

    until(waits_after_another_death, proxy.evidence)


def test_metrics_process_is_unprivileged_and_ignores_signals(
    proxy: PerditionProcess, scraper: Scraper
) -> None:
    process = process_of(proxy, "metrics")
    assert process.uid == (NOBODY if os.geteuid() == 0 else os.geteuid())
    assert scraper.text()
    for number in (signal.SIGHUP, signal.SIGINT):
        os.kill(process.pid, number)
    assert scraper.text()
    same = process_of(proxy, "metrics")
    assert (same.pid, same.uid) == (process.pid, NOBODY if os.geteuid() == 0 else os.geteuid())


@pytest.mark.parametrize("survivor", ["metrics", "worker 1, 0 sessions"])
def test_only_its_own_sockets_are_left_of_a_dead_master(
    survivor: str, proxy: PerditionProcess, scraper: Scraper
) -> None:
    """A process that outlives its master does not hold the sockets of the others."""
    assert isinstance(scraper.address, tuple)
    process = process_of(proxy, survivor)
    until(lambda: len(proxy.processes()) == 4, proxy.evidence)
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(proxy.pid, signal.SIGKILL)
    until(lambda: proxy.processes() == [process], proxy.evidence)
    assert listening(scraper.address[1]) == (survivor == "metrics")
    assert listening(proxy.port) == (survivor != "metrics")
    os.kill(process.pid, signal.SIGKILL)


def test_hanging_scrapers_delay_no_client(proxy: PerditionProcess, scraper: Scraper) -> None:
    with ExitStack() as hanging:
        for _ in range(MANY):
            hanging.enter_context(scraper.connect())
        with log_in(proxy) as client:
            client.use()
        assert scraper.text()


def test_stuck_metrics_process_delays_no_client(proxy: PerditionProcess) -> None:
    os.kill(process_of(proxy, "metrics").pid, signal.SIGSTOP)
    with log_in(proxy) as client:
        client.use()
        client.log_out()
    assert proxy.terminate() == os.EX_OK


@pytest.fixture
def unix_scraper(folder: Path) -> Scraper:
    """A scraper of a Unix socket in a folder that anybody can write to."""
    place = folder / "run"
    place.mkdir()
    place.chmod(0o777)
    return Scraper(place / "metrics")


def test_metrics_are_served_on_a_unix_socket(
    folder: Path, server: RealServer, unix_scraper: Scraper
) -> None:
    path = unix_scraper.address
    assert isinstance(path, Path)
    with PerditionProcess("imap4", folder, *target(server), *unix_scraper.option) as proxy:
        log_in(proxy).close()
        unix_scraper.expect(1, "logins_total", "ok")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_uid == process_of(proxy, "metrics").uid
    assert not path.exists()


def test_unix_socket_of_a_dead_master_is_replaced(
    folder: Path, server: RealServer, unix_scraper: Scraper
) -> None:
    options = (*target(server), *unix_scraper.option)
    with PerditionProcess("imap4", folder, *options) as dead:
        os.kill(dead.pid, signal.SIGKILL)
        until(lambda: not dead.processes(), dead.evidence)
    with PerditionProcess("imap4", folder, *options):
        assert unix_scraper.text()


def test_unix_socket_of_another_is_left_alone(
    folder: Path, server: RealServer, unix_scraper: Scraper
) -> None:
    options = (*target(server), *unix_scraper.option)
    with PerditionProcess("imap4", folder, *options):
        complaint = refusal(PerditionProcess("imap4", folder, *options))
        assert f"metrics_address {unix_scraper.address}: Address already in use" in complaint
        assert unix_scraper.text()


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("127.0.0.1:{taken}", "metrics_address 127.0.0.1:{taken}: Address already in use"),
        ("192.0.2.1:9100", "metrics_address 192.0.2.1:9100: Cannot assign requested address"),
        ("/nonexistent/metrics", "metrics_address /nonexistent/metrics: No such file or directory"),
        ("{folder}", "metrics_address {folder}: Address already in use"),
        ("localhost", "--metrics_address 'localhost': expected a host and a port"),
    ],
)
def test_invalid_metrics_address_is_refused_at_start(
    place: str, complaint: str, folder: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = {"taken": other.getsockname()[1], "folder": folder}
        proxy = PerditionProcess(
            "imap4", folder, "-M", "", "--metrics_address", place.format(**where)
        )
        assert complaint.format(**where) in refusal(proxy)


def refusal(proxy: PerditionProcess) -> str:
    """The one line of a start that fails."""
    done = subprocess.run(
        proxy.command, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    [line] = done.stderr.splitlines()
    assert done.returncode == os.EX_USAGE
    return line


def test_daemon_serves_metrics(folder: Path, server: RealServer, scraper: Scraper) -> None:
    pid_file = folder / "run" / "pid"
    proxy = PerditionProcess("imap4", folder, *target(server), *scraper.option, pid_file=pid_file)
    proxy.command.remove("--no_daemon")
    subprocess.run(proxy.command, check=True, timeout=DEADLINE)
    pid = until(lambda: pid_file.exists() and int(pid_file.read_text()), "a pid file")
    try:
        log_in(proxy).close()
        scraper.expect(1, "logins_total", "ok")
    finally:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not (pid_file.exists() or listening(proxy.port)), "the daemon's end")


@needs("promtool")
def test_promtool_finds_no_errors(proxy: PerditionProcess, scraper: Scraper) -> None:
    log_in(proxy).close()
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=scraper.text(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


PROMETHEUS = """\
scrape_configs:
  - job_name: perdition
    scrape_interval: 100ms
    scrape_timeout: 100ms
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""


@contextmanager
def prometheus(folder: Path, scraper: Scraper) -> Iterator[int]:
    """Run a Prometheus that scrapes; gives its port."""
    assert isinstance(scraper.address, tuple)
    configuration = folder / "prometheus.yml"
    configuration.write_text(PROMETHEUS.format(port=scraper.address[1]))
    [port] = free_ports(1)
    command = [
        *("prometheus", "--log.level=error", f"--config.file={configuration}"),
        *(f"--storage.tsdb.path={folder}/prometheus", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            until(lambda: listening(port), "Prometheus listens")
            yield port
        finally:
            process.terminate()
            process.wait(DEADLINE)


def query_prometheus(port: int, query: str) -> list[dict[str, str]]:
    """The labels of all samples that match a query."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return [found["metric"] for found in json.load(answer)["data"]["result"]]


@needs("prometheus")
@pytest.mark.slow
def test_prometheus_scrapes(proxy: PerditionProcess, scraper: Scraper, folder: Path) -> None:
    with prometheus(folder, scraper) as port, log_in(proxy):
        [found] = until(
            lambda: query_prometheus(port, 'perdition_logins_total{result="ok"} == 1'), "logins"
        )
        assert found["protocol"] == "IMAP4"
        connects = 'perdition_login_stage_duration_seconds_bucket{stage="connect",le="+Inf"} == 1'
        until(lambda: query_prometheus(port, connects), "a histogram")
        until(
            lambda: query_prometheus(port, 'perdition_sessions{state="established"} == 1'),
            "a session",
        )
