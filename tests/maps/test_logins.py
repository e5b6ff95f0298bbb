"""Logins through perdition itself, while the popmap's server comes, goes and hangs."""

import os
import signal
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.maps.test_c_library import GET, compiled
from tests.maps.test_servers import SERVERS
from tests.support.client_connection import PROTOCOLS, LoggedInClient, RawConnection
from tests.support.folders import public_folder
from tests.support.map_server import MapServer
from tests.support.map_servers import PASSWORD, AuthService, MariaDBByODBC, Redis
from tests.support.perdition import PerditionProcess
from tests.support.real_server import RealServer
from tests.support.wait import DEADLINE, until

UNAVAILABLE = 'status="failed: Could not determine server: popmap unavailable"'


class LoginResult(NamedTuple):
    """A login: its start by the monotonic clock, and the reply to the client."""

    began: float
    answer: str

    @property
    def ok(self) -> bool:
        """Whether the client is in."""
        return self.answer.startswith("a OK")


def log_in(proxy: PerditionProcess, user: str, password: str = "secret") -> LoginResult:
    """Log in and out again."""
    began = time.monotonic()
    with RawConnection.to(proxy.address) as client:
        client.read_until(PROTOCOLS["imap4"].greeting)
        answer = client.ask(f"a LOGIN {user} {password}".encode(), rb"(?m)^a (OK|NO|BAD).*\r\n")
    return LoginResult(began, answer.decode().splitlines()[-1])


class LoginLoad:
    """Clients that log in all the time."""

    def __init__(self, proxy: PerditionProcess, clients: int = 4) -> None:
        self.proxy = proxy
        self.logins: list[LoginResult] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._done.is_set():
            self.logins.append(log_in(self.proxy, "joe"))

    def wait_for(self, count: int) -> None:
        """Wait until so many more clients are in."""
        wanted = self.succeeded() + count
        until(
            lambda: self.succeeded() >= wanted, lambda: f"{count} more logins: {self.logins[-9:]}"
        )

    def succeeded(self) -> int:
        """How many have got in so far."""
        return sum(login.ok for login in self.logins)

    def close(self) -> None:
        """Let the clients end."""
        self._done.set()
        for thread in self._threads:
            thread.join(DEADLINE)


@pytest.fixture(scope="module")
def real_server() -> Iterator[RealServer]:
    with RealServer("north", {"joe": "secret", "ann": "secret"}) as server:
        yield server


@pytest.fixture(params=[Redis, MariaDBByODBC], ids=lambda kind: kind.__name__)
def hanging(
    request: pytest.FixtureRequest,
    folder: Path,
    real_server: RealServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[MapServer]:
    """A popmap's server that can hang: of the one we know how long we wait, of the other not."""
    kind: type[MapServer] = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    with kind(folder) as running:
        if isinstance(running, MariaDBByODBC):
            monkeypatch.setenv("ODBCINI", str(running.sources))
        address = real_server.server("imap4")
        running.load(f"joe:{address}\nann:{address}\n")
        yield running


@pytest.fixture
def redis(folder: Path, real_server: RealServer) -> Iterator[Redis]:
    """The popmap of the tests that need just any server; joe and ann are in it."""
    if reason := Redis.missing():
        pytest.skip(reason)
    with Redis(folder) as running:
        address = real_server.server("imap4")
        running.load(f"joe:{address}\nann:{address}\n")
        yield running


def proxy_with(server: MapServer, folder: Path, *options: str) -> PerditionProcess:
    return PerditionProcess("imap4", folder, "-M", server.kind, "-m", server.option(), *options)


@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.__name__)
def test_server_may_be_restarted_under_load(kind: type[MapServer], real_server: RealServer) -> None:
    """No login that begins when the server is back, or while it was there, fails."""
    if reason := kind.missing():
        pytest.skip(reason)
    with public_folder() as folder, kind(folder) as server:
        server.load(f"joe:{real_server.server('imap4')}\n")
        with (
            proxy_with(server, folder, "--workers", "1") as proxy,
            closing(LoginLoad(proxy)) as load,
        ):
            load.wait_for(20)
            gone = time.monotonic()
            server.restart()
            back = time.monotonic()
            load.wait_for(20)
            load.close()
            failed = [login for login in load.logins if not login.ok]
            assert len(proxy.logged('status="ok"')) == load.succeeded()
            assert len(proxy.logged(UNAVAILABLE)) == len(failed)
    for login in failed:
        # One that begins just before may come to its lookup when the server has gone.
        assert gone - 1 < login.began < back, login
        assert "[UNAVAILABLE]" in login.answer


def test_hung_server_delays_only_users_who_need_it(
    hanging: MapServer, real_server: RealServer, folder: Path
) -> None:
    """Sessions continue, and users who specify their server log in, while forty lookups hang."""
    options = ("--workers", "1", "--map_timeout", "4", "-c")
    with proxy_with(hanging, folder, *options) as proxy:
        session = LoggedInClient(proxy.address, "imap4", "joe", "secret")
        named = f"joe@{real_server.server('imap4')}"
        with hanging.hung():
            refused: list[LoginResult] = []
            threads = [
                threading.Thread(target=lambda: refused.append(log_in(proxy, "ann")))
                for _ in range(40)
            ]
            for thread in threads:
                thread.start()
            proxy.wait_for_log("Connect: ", count=41)
            began = time.monotonic()
            for _ in range(20):
                session.use()
                assert log_in(proxy, named).ok
            assert time.monotonic() - began < 3
            assert not refused
            for thread in threads:
                thread.join(DEADLINE)
            assert len(refused) == 40
            assert all("[UNAVAILABLE]" in login.answer for login in refused)
        assert log_in(proxy, "ann").ok
        session.log_out()


def test_cached_answers_are_used_during_an_outage(redis: Redis, folder: Path) -> None:
    """Who was there a moment ago logs in while the server is away, others do not."""
    with proxy_with(redis, folder, "--workers", "1", "--map_cache", "1") as proxy:
        assert log_in(proxy, "joe").ok
        redis.stop()
        until(lambda: log_in(proxy, "joe").ok and proxy.logged("using an expired answer"), "a use")
        assert "[UNAVAILABLE]" in log_in(proxy, "ann").answer
        redis.start()
        until(lambda: log_in(proxy, "ann").ok, "ann's login")


def test_password_of_the_map_is_not_visible(redis: Redis, folder: Path) -> None:
    """Neither in the log, with everything in it, nor in any process's title or arguments."""
    secret = PASSWORD.replace(":", "%3a")
    option = redis.option().replace(f"@{redis.password_file}", secret)
    assert secret in option
    with PerditionProcess("imap4", folder, "-M", "redis", "-m", option, "-d", "-C") as proxy:
        assert log_in(proxy, "joe").ok
        assert not log_in(proxy, "nobody").ok
        redis.stop()
        assert not log_in(proxy, "joe").ok
        seen = [*proxy.log_lines(), *(process.title for process in proxy.processes())]
        assert any('map_library_opt="(not shown' in line for line in seen)
        assert not [line for line in seen if secret in line or PASSWORD in line]


def test_password_file_may_be_readable_by_root_only(redis: Redis, folder: Path) -> None:
    """The master reads it; the workers, which run as nobody, need not."""
    redis.password_file.chmod(0o600)
    with proxy_with(redis, folder) as proxy:
        assert log_in(proxy, "joe").ok


def test_sighup_opens_the_map_with_the_new_options(
    redis: Redis, real_server: RealServer, folder: Path
) -> None:
    """Even where the password's file is one that only root may read."""
    redis.password_file.chmod(0o600)
    file = folder / "perdition.conf"
    file.write_text(f"map_library redis\nmap_library_opt '{redis.option()} elsewhere:%s'\n")
    with PerditionProcess("imap4", folder, "--workers", "1", "-f", file) as proxy:
        assert not log_in(proxy, "joe").ok
        file.write_text(f"map_library redis\nmap_library_opt '{redis.option()}'\n")
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_for_log("configuration reloaded")
        until(lambda: log_in(proxy, "joe").ok, proxy.evidence)
        file.write_text("map_library nosuch\n")
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_for_log("configuration unchanged: map_library nosuch: unknown kind")
        assert log_in(proxy, "joe").ok


def test_library_that_crashes_or_hangs_affects_no_other_login(
    real_server: RealServer, folder: Path
) -> None:
    """It does so in processes of its own: perdition's lose no session, and outlive none of them."""
    library = compiled(folder, GET.replace("max@north:1143", real_server.server("imap4")))
    notes = folder / "notes"
    notes.touch()
    notes.chmod(0o666)
    options = ("-M", library, "-m", str(notes), "--workers", "1", "--map_timeout", "2")
    with PerditionProcess("imap4", folder, *options) as proxy:
        session = LoggedInClient(proxy.address, "imap4", "joe", "secret")
        workers = proxy.workers()
        for user in ("crash", "hang", "down"):
            assert "[UNAVAILABLE]" in log_in(proxy, user).answer
            assert log_in(proxy, "joe").ok
        assert "[AUTHENTICATIONFAILED]" in log_in(proxy, "nobody").answer
        session.use()
        session.log_out()
        assert proxy.logged("the lookup process was killed by SIGABRT")
        assert [worker.pid for worker in proxy.workers()] == [worker.pid for worker in workers]


def test_service_can_check_passwords(real_server: RealServer, folder: Path) -> None:
    """It has the last word, may have another password for the real server, and no log shows any."""
    address = real_server.server("imap4")
    with AuthService(folder) as service:
        service.load(f"joe:w0rd/secret/{address}\nann:secret//{address}\n")
        option = f"{service.option()} Auth-Pass"
        with PerditionProcess(
            "imap4", folder, "-M", "http", "-m", option, "-d", "-s", address
        ) as proxy:
            assert log_in(proxy, "ann").ok
            refused = log_in(proxy, "joe").answer
            assert refused == "a NO [AUTHENTICATIONFAILED] Invalid login or password"
            proxy.wait_for_log('status="failed: Re-Authentication Failure"')
            assert proxy.logged("popmap: Invalid login or password")
            assert log_in(proxy, "joe", "w0rd").ok
            assert not [line for line in proxy.log_lines() if "w0rd" in line or "secret" in line]


def test_password_of_the_popmap_lets_no_user_act_as_another(
    real_server: RealServer, folder: Path
) -> None:
    """It goes with the name that was looked up, not with the one that comes with it in SASL."""
    plain = b64encode(b"joe\0ann\0w0rd")
    sieve = PROTOCOLS["managesieve"]
    with AuthService(folder) as service:
        service.load(f"joe:w0rd/secret/{real_server.server('managesieve')}\n")
        option = f"{service.option()} Auth-Pass"
        with PerditionProcess("managesieve", folder, "-M", "http", "-m", option) as proxy:
            with RawConnection.to(proxy.address) as client:
                client.read_until(sieve.greeting)
                client.ask(b'AUTHENTICATE "PLAIN" "%b"' % plain, rb"OK.*\r\n")
                assert b"joe-on-north" in client.ask(*sieve.noop)
            proxy.wait_for_log('authentication_id="joe".*status="ok"')


def test_missing_password_file_prevents_the_start(redis: Redis, folder: Path) -> None:
    redis.password_file.unlink()
    with pytest.raises(AssertionError, match="No such file or directory; expected a readable file"):
        proxy_with(redis, folder).__enter__()
