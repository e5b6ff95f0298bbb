"""The init scripts and systemd units, with real instances whose files are in a test's folder."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.conftest import needs_root
from tests.support.client_connection import PROTOCOLS, RawConnection
from tests.support.processes import free_ports
from tests.support.wait import DEADLINE, until

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "initscripts"
NAMES = {
    "POP3": "perdition.pop3",
    "POP3S": "perdition.pop3s",
    "IMAP4": "perdition.imap4",
    "IMAP4S": "perdition.imaps",
    "MANAGESIEVE": "perdition.managesieve",
}
"""The instances by their names in the settings."""


class InitScriptHost:
    """Settings and pid files in a folder, and the init script that uses them."""

    def __init__(self, folder: Path) -> None:
        self.settings = folder / "default"
        self.run = folder / "run"
        self.run.mkdir()
        self.log = folder / "log"
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self.transcript: list[str] = []
        self.write_settings("POP3", "IMAP4")

    def write_settings(self, *protocols: str, run: str = "yes", more: str = "") -> None:
        """Write the settings, with these protocols enabled."""
        flags = f"--config_file= --map_library= --ssl_mode none -b 127.0.0.1 -F {self.log}"
        lines = [f"RUN_PERDITION={run}", f'FLAGS="{flags} --workers 1"']
        for protocol, port in self.ports.items():
            lines.append(f"{protocol}={'yes' if protocol in protocols else 'no'}")
            lines.append(f'{protocol}_FLAGS="--listen_port {port}"')
        self.settings.write_text("\n".join([*lines, more, ""]))

    @property
    def environment(self) -> dict[str, str]:
        """Makes the script use this folder."""
        own = {"SETTINGS": str(self.settings), "SBIN": str(ROOT / "bin"), "RUN": str(self.run)}
        return os.environ | own | {"SYSTEMD": ""}

    def run_script(
        self, *arguments: str, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the script; its standard output and error are in stdout."""
        done = subprocess.run(
            [SCRIPTS / "instances", *arguments],
            env=self.environment,
            user=user,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=2 * DEADLINE,
        )
        self.transcript.append(
            f"$ {shlex.join(arguments)}\n{done.stdout}exits with {done.returncode}"
        )
        return done

    @contextmanager
    def start_script(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start the script, which runs until it is killed."""
        command = [str(SCRIPTS / "instances"), *arguments]
        with subprocess.Popen(command, env=self.environment) as process:
            try:
                yield process
            finally:
                process.kill()

    def pid_file(self, protocol: str) -> Path:
        name = NAMES[protocol]
        return self.run / name / f"{name}.pid"

    def pid(self, protocol: str) -> int:
        """The pid of an instance."""
        return int(self.pid_file(protocol).read_text())

    def listens(self, protocol: str) -> bool:
        """Whether an instance listens.

        It tries to bind: reading all sockets takes seconds on a busy host.
        """
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", self.ports[protocol]))
            except OSError:
                return True
        return False

    def evidence(self) -> str:
        log = self.log.read_text() if self.log.exists() else ""
        return "\n".join([*self.transcript, self.settings.read_text(), log])


@pytest.fixture
def host(folder: Path) -> Iterator[InitScriptHost]:
    """A host without instances, both before and after the test."""
    host = InitScriptHost(folder)
    try:
        yield host
    finally:
        host.run_script("stop")
        left = [protocol for protocol in NAMES if host.listens(protocol)]
    assert not left, host.evidence()


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """A python3 process that is not perdition."""
    waiting = [sys.executable, "-c", "import signal; signal.pause()", "perdition.pop3: master"]
    with subprocess.Popen(waiting) as process:
        yield process
        process.kill()


def test_enabled_instances_are_started(host: InitScriptHost) -> None:
    started = host.run_script("start")
    assert started.returncode == 0
    assert started.stdout.splitlines() == [
        f"perdition.pop3 started (process {host.pid('POP3')})",
        f"perdition.imap4 started (process {host.pid('IMAP4')})",
    ]
    assert [protocol for protocol in NAMES if host.listens(protocol)] == ["POP3", "IMAP4"]


def test_all_five_under_their_names(host: InitScriptHost) -> None:
    host.write_settings(*NAMES)
    host.run_script("start")
    for protocol, name in NAMES.items():
        title = Path(f"/proc/{host.pid(protocol)}/cmdline").read_bytes()
        assert title.startswith(f"{name}: master".encode())
        assert host.listens(protocol)
    assert host.run_script("status").returncode == 0


@pytest.mark.parametrize("word", ["yes", "on", "YES", "On"])
def test_yes_and_on_enable_an_instance(host: InitScriptHost, word: str) -> None:
    host.write_settings(run=word, more=f"POP3={word}")
    host.run_script("start")
    assert host.listens("POP3")


@pytest.mark.parametrize("word", ["no", "off", "", "maybe"])
def test_everything_else_means_no(host: InitScriptHost, word: str) -> None:
    host.write_settings("IMAP4", run=word)
    started = host.run_script("start")
    assert started.returncode == 0
    assert "RUN_PERDITION" in started.stdout
    assert host.run_script("status").returncode == 3
    assert not host.listens("IMAP4")


def test_start_without_enabled_instances_succeeds(host: InitScriptHost) -> None:
    host.write_settings()
    assert "perdition is disabled" in host.run_script("start").stdout
    status = host.run_script("status")
    assert status.returncode == 3
    assert "perdition is disabled" in status.stdout


def test_status_of_what_runs_although_it_is_off(host: InitScriptHost) -> None:
    host.run_script("start")
    host.write_settings("POP3", "IMAP4", run="no")
    status = host.run_script("status")
    assert status.returncode == 0
    assert "perdition.imap4 is running" in status.stdout


@needs_root
@pytest.mark.parametrize("verb", ["status", "stop", "start", "reload"])
def test_user_who_cannot_read_pid_files(host: InitScriptHost, verb: str) -> None:
    """A user without access to the pid file is not told that the instance is stopped."""
    host.run_script("start")
    done = host.run_script(verb, user="daemon")
    assert done.returncode == 4
    assert "perdition.imap4: only root can see whether it is running" in done.stdout
    assert "not running" not in done.stdout


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_instance_that_would_stay_in_the_foreground(host: InitScriptHost, verb: str) -> None:
    """The script returns, with the other instances started."""
    more = 'START_SECONDS=3 POP3_FLAGS="$POP3_FLAGS --no_daemon"'
    host.write_settings("POP3", "IMAP4", more=more)
    done = host.run_script(verb)
    assert done.returncode == 1
    assert "perdition.pop3 did not go to the background" in done.stdout
    assert host.listens("IMAP4")
    assert not host.pid_file("POP3").exists()


def test_start_of_a_running_instance_changes_nothing(host: InitScriptHost) -> None:
    host.run_script("start")
    pid = host.pid("POP3")
    again = host.run_script("start")
    assert again.returncode == 0
    assert f"perdition.pop3 is already running (process {pid})" in again.stdout
    assert host.pid("POP3") == pid


def test_stop_and_stop_of_what_is_dead(host: InitScriptHost) -> None:
    host.run_script("start")
    stopped = host.run_script("stop")
    assert stopped.returncode == 0
    assert stopped.stdout.splitlines() == [
        "perdition.pop3 stopped",
        "perdition.imap4 stopped",
    ]
    assert not host.listens("POP3")
    assert not host.pid_file("POP3").exists()
    again = host.run_script("stop")
    assert again.returncode == 0
    assert "perdition.pop3 is not running" in again.stdout


def test_stop_also_stops_disabled_instances(host: InitScriptHost) -> None:
    host.run_script("start")
    host.write_settings("IMAP4")
    assert "perdition.pop3 stopped" in host.run_script("restart").stdout
    assert not host.listens("POP3")
    assert host.listens("IMAP4")


def test_restart(host: InitScriptHost) -> None:
    host.run_script("start")
    before = host.pid("IMAP4")
    assert host.run_script("restart").returncode == 0
    assert host.pid("IMAP4") != before
    assert host.listens("IMAP4")


def test_restart_ends_no_session(host: InitScriptHost) -> None:
    """A client stays connected."""
    host.run_script("start")
    with RawConnection.to(("127.0.0.1", host.ports["IMAP4"])) as client:
        client.read_until(PROTOCOLS["imap4"].greeting)

        said = host.run_script("restart").stdout

        assert "perdition.imap4 restarted (process" in said
        client.ask(*PROTOCOLS["imap4"].noop)
        assert "perdition.imap4 stopped" in host.run_script("stop").stdout
        client.read_to_end()


def test_restart_with_an_error_changes_nothing(host: InitScriptHost) -> None:
    host.run_script("start")
    before = host.pid("IMAP4")
    host.write_settings("IMAP4", more='IMAP4_FLAGS="--timeout soon"')

    failed = host.run_script("restart")

    assert failed.returncode == 1
    assert "timeout 'soon'" in failed.stdout
    assert "the running one continues" in failed.stdout
    assert host.pid("IMAP4") == before
    assert host.listens("IMAP4")


def test_restart_where_there_is_no_takeover(host: InitScriptHost) -> None:
    """As where an older perdition runs: it is stopped, and started."""
    host.run_script("start")
    host.pid_file("IMAP4").with_name("perdition.imap4.pid.takeover").unlink()
    before = host.pid("IMAP4")

    said = host.run_script("restart").stdout

    assert "perdition.imap4 stopped" in said
    assert "perdition.imap4 started (process" in said
    assert host.pid("IMAP4") != before


def test_try_restart_starts_nothing_new(host: InitScriptHost) -> None:
    host.write_settings("IMAP4")
    host.run_script("start")
    before = host.pid("IMAP4")
    host.write_settings("POP3", "IMAP4")
    assert host.run_script("try-restart").returncode == 0
    assert host.pid("IMAP4") != before
    assert not host.listens("POP3")


@pytest.mark.parametrize("verb", ["reload", "force-reload"])
def test_reload(host: InitScriptHost, verb: str) -> None:
    host.run_script("start")
    pid = host.pid("IMAP4")
    assert host.run_script(verb).returncode == 0
    until(lambda: host.log.read_text().count("configuration reloaded") >= 2, host.evidence)
    assert host.pid("IMAP4") == pid


def test_reload_of_what_is_dead(host: InitScriptHost) -> None:
    reloaded = host.run_script("reload")
    assert reloaded.returncode == 7
    assert "perdition.imap4 is not running" in reloaded.stdout


def test_status(host: InitScriptHost) -> None:
    assert host.run_script("status").returncode == 3
    host.run_script("start")
    running = host.run_script("status")
    assert running.returncode == 0
    assert f"perdition.imap4 is running (process {host.pid('IMAP4')})" in running.stdout
    pid = host.pid("IMAP4")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not host.listens("IMAP4"), host.evidence)
    dead = host.run_script("status")
    assert dead.returncode == 1
    assert "perdition.imap4 is dead" in dead.stdout


def test_pid_file_with_another_process(
    host: InitScriptHost, other_process: subprocess.Popen[bytes]
) -> None:
    host.write_settings("POP3")
    pid_file = host.pid_file("POP3")
    pid_file.parent.mkdir()
    pid_file.write_text(f"{other_process.pid}\n")
    assert host.run_script("status").returncode == 1
    assert host.run_script("reload").returncode == 7
    assert host.run_script("stop").returncode == 0
    assert host.run_script("start").returncode == 0
    assert host.run_script("stop").returncode == 0
    assert other_process.poll() is None


@pytest.mark.parametrize("number", ["", "4194305", "-1", "x", "1 2"])
def test_pid_file_without_a_process(host: InitScriptHost, number: str) -> None:
    host.write_settings("POP3")
    pid_file = host.pid_file("POP3")
    pid_file.parent.mkdir()
    pid_file.write_text(number)
    assert host.run_script("status").returncode == 1
    assert host.run_script("stop").returncode == 0
    assert host.run_script("status").returncode == 3
    assert host.run_script("start").returncode == 0


def test_fifo_as_pid_file(host: InitScriptHost) -> None:
    """It does not block the script."""
    host.write_settings("POP3")
    pid_file = host.pid_file("POP3")
    pid_file.parent.mkdir()
    os.mkfifo(pid_file)
    assert host.run_script("status").returncode == 1
    assert host.run_script("start").returncode == 0
    assert host.run_script("status").returncode == 0


def test_stale_pid_file_is_replaced(host: InitScriptHost) -> None:
    host.write_settings("POP3")
    host.run_script("start")
    os.kill(host.pid("POP3"), signal.SIGKILL)
    until(lambda: not host.listens("POP3"), host.evidence)
    assert host.run_script("start").returncode == 0
    assert host.run_script("status").returncode == 0


def test_other_instances_start_if_one_cannot(host: InitScriptHost) -> None:
    with socket.create_server(("127.0.0.1", host.ports["POP3"])):
        started = host.run_script("start")
    assert started.returncode == 1
    assert f"cannot listen on 127.0.0.1:{host.ports['POP3']}" in started.stdout
    assert "perdition.pop3 cannot start" in started.stdout
    assert host.listens("IMAP4"), "the other one is started all the same"


def test_instance_that_does_not_stop_is_killed(host: InitScriptHost) -> None:
    host.write_settings("POP3", more="STOP_SECONDS=1")
    host.run_script("start")
    os.kill(host.pid("POP3"), signal.SIGSTOP)
    stopped = host.run_script("stop")
    assert stopped.returncode == 0
    assert "was killed" in stopped.stdout
    assert host.run_script("status").returncode == 3, "its pid file is left"
    until(lambda: not host.listens("POP3"), host.evidence)


def test_others_of_the_same_name_live_on(host: InitScriptHost, folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    other = InitScriptHost(folder / "elsewhere")
    other.write_settings("IMAP4")
    try:
        other.run_script("start")
        host.run_script("start")
        host.run_script("stop")
        assert other.run_script("status").returncode == 0
    finally:
        other.run_script("stop")
    assert not other.listens("IMAP4")


def test_pid_file_of_the_script_overrides_other_options(host: InitScriptHost, folder: Path) -> None:
    host.write_settings("POP3", more=f'FLAGS="$FLAGS --pid_file {folder}/mine.pid"')
    host.run_script("start")
    assert host.run_script("status").returncode == 0
    assert not (folder / "mine.pid").exists()


def test_supervisor_asks_what_is_enabled(host: InitScriptHost) -> None:
    assert host.run_script("wanted", "perdition.pop3").returncode == 0
    assert host.run_script("wanted", "perdition.imaps").returncode == 1
    assert host.run_script("wanted", "perdition.imap").returncode == 1
    with host.start_script("run", "perdition.pop3") as service:
        until(
            lambda: host.run_script("status").stdout.startswith("perdition.pop3 is running"),
            host.evidence,
        )
        assert host.pid("POP3") == service.pid, "the supervisor looks after another process"
        assert host.run_script("status").returncode == 3, "imap4 is missing"
        host.run_script("stop")
        assert service.wait(DEADLINE) == 0


def test_unknown_command_is_refused(host: InitScriptHost) -> None:
    done = host.run_script("begin")
    assert done.returncode == 2
    assert "Usage: instances start|stop" in done.stdout


PACKAGING = ROOT / "packaging"
SHELL = [
    *(SCRIPTS / name for name in ("instances", "debian", "redhat", "suse")),
    *(PACKAGING / name for name in ("install", "deb/build", "rpm/build")),
    *(PACKAGING / f"deb/perdition.{name}" for name in ("preinst", "postinst", "prerm", "postrm")),
]


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    command = ["shellcheck", "--shell", "sh", "--exclude", "SC1091", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert not done.stdout


def test_units_are_sound(folder: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    units = folder / "usr/lib/systemd/system"
    shutil.copytree(SCRIPTS / "systemd", units)
    for program in ("bin/true", "bin/kill", "usr/share/perdition/instances"):
        stand_in = folder / program
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.touch(mode=0o755)
    names = ["perdition.service", "perdition@imaps.service"]
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
    done = subprocess.run(
        [*command, f"--root={folder}", *names],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert not done.stderr
    assert done.returncode == 0
