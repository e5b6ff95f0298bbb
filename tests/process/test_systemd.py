"""The systemd units on a live systemd: start, notification, takeover, sandbox."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.conftest import ACCOUNT, PASSWORD, needs_root
from tests.support import sandbox
from tests.support.booted import SYSTEMD, BootedMachine
from tests.support.folders import ROOT, public_folder
from tests.support.perdition import PerditionProcess
from tests.support.processes import ProcessInfo
from tests.support.wait import DEADLINE

pytestmark = needs_root

SETTINGS = """
RUN_PERDITION=yes
FLAGS="--map_library= --no_lookup --workers 2 -F /var/log/mail/perdition.log {flags}"
POP3=yes POP3S=no IMAP4=yes IMAP4S=no MANAGESIEVE=no
POP3_FLAGS="--outgoing_server 127.0.0.1:2110"
IMAP4_FLAGS="--outgoing_server 127.0.0.1:2143"
IMAP4S_FLAGS="--outgoing_server 127.0.0.1:2143"
"""

MAIL_SERVER = f"""
cd {ROOT}
(sleep 600 | {sys.executable} -m tests.support.mailserver --name north --address 127.0.0.1 \
    --ports 2110 2143 2190 {ACCOUNT}:{PASSWORD}) >/dev/null 2>&1 &
"""

EXPOSURE = 30
"""Tenths. systemd rates lower exposure as safe; a unit without any sandboxing has 96."""


@pytest.fixture(scope="module")
def booted() -> Iterator[BootedMachine]:
    """A container with perdition installed, and a real server."""
    if not SYSTEMD.exists():
        pytest.skip("systemd is not installed")
    with public_folder() as folder, BootedMachine(folder) as machine:
        machine.install_perdition()
        machine.add_user(ACCOUNT, PASSWORD)
        machine.does("mkdir /var/log/mail && chmod 755 /var/log/mail")
        machine.does(MAIL_SERVER)
        yield machine


class SystemdHost:
    def __init__(self, machine: BootedMachine) -> None:
        self.machine = machine
        self.does, self.tries = machine.does, machine.tries

    def settings(self, flags: str = "", more: str = "") -> None:
        """Write /etc/default/perdition."""
        text = SETTINGS.format(flags=flags) + more
        self.does(f"cat >/etc/default/perdition <<'END'\n{text}\nEND")

    def property_of(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.does(f"systemctl show -P {name} {unit}").strip()

    def processes(self, unit: str) -> list[ProcessInfo]:
        """The processes of a unit, with this system's pids."""
        group = self.machine.control_group / f"system.slice/system-perdition.slice/{unit}"
        return [ProcessInfo(int(pid)) for pid in (group / "cgroup.procs").read_text().split()]

    def reads_mail(self, url: str, password: str = PASSWORD, options: str = "") -> bool:
        """Whether a client gets a message."""
        curl = f"curl --silent --show-error --max-time 20 {options} -u {ACCOUNT}:{password}"
        done = self.tries(f"{curl} {url}")
        return done.returncode == 0 and "Subject:" in done.stdout

    def evidence(self) -> str:
        """The commands, and the journal's and the log's last lines."""
        self.tries("journalctl --no-pager --output cat --unit 'perdition*' | tail -40")
        self.tries("tail -40 /var/log/mail/perdition.log")
        return self.machine.evidence()


@pytest.fixture
def host(booted: BootedMachine) -> Iterator[SystemdHost]:
    """The container, with no instance left running."""
    host = SystemdHost(booted)
    host.machine.said.clear()
    host.settings()
    yield host
    host.does("systemctl stop 'perdition*.socket' perdition.service 'perdition@*.service'")
    host.does("systemctl reset-failed")


POP3 = "pop3://127.0.0.1/1"
IMAP4 = "'imap://127.0.0.1/INBOX;UID=1'"


def test_enabled_instances_are_started(host: SystemdHost) -> None:
    host.does("systemctl start perdition")
    assert host.reads_mail(POP3)
    assert host.reads_mail(IMAP4)
    assert host.property_of("perdition@imap4", "ActiveState") == "active"
    assert host.property_of("perdition@imaps", "ActiveState") == "inactive"


def test_reload(host: SystemdHost) -> None:
    host.does("systemctl start perdition")
    before = host.property_of("perdition@imap4", "MainPID")
    host.does("systemctl reload perdition")
    host.machine.wait_for("grep -q 'perdition.imap4.*reloaded' /var/log/mail/perdition.log")
    assert host.property_of("perdition@imap4", "MainPID") == before
    assert host.reads_mail(IMAP4)


def test_restart_and_stop(host: SystemdHost) -> None:
    host.does("systemctl start perdition")
    before = host.property_of("perdition@imap4", "MainPID")
    host.does("systemctl restart perdition")
    assert host.property_of("perdition@imap4", "MainPID") != before
    assert host.reads_mail(IMAP4)
    host.does("systemctl stop perdition")
    assert host.property_of("perdition@imap4", "Result") == "success"
    assert not host.reads_mail(IMAP4)
    host.does("! ls -d /run/perdition.*")


CLIENT = """
exec 3<>/dev/tcp/127.0.0.1/143
read -r line <&3 && : >/run/is-connected
until [ -e /run/go-on ]; do sleep 0.1; done
printf 'a NOOP\\r\\n' >&3
grep -m1 '^a OK' <&3 >/run/answer || echo lost >/run/answer
"""


def test_takeover(host: SystemdHost) -> None:
    """A restart by the script ends no connection, and systemd has the new main process."""
    host.does("systemctl start perdition@imap4")
    before = host.property_of("perdition@imap4", "MainPID")
    host.does(f"cat >/run/client <<'END'\n{CLIENT}\nEND")
    host.does("bash /run/client >/dev/null 2>&1 &")
    host.machine.wait_for("[ -e /run/is-connected ]")

    host.does("/usr/share/perdition/instances try-restart")

    after = host.property_of("perdition@imap4", "MainPID")
    assert after not in ("0", before)
    assert host.reads_mail(IMAP4)
    host.does("touch /run/go-on")
    host.machine.wait_for("[ -s /run/answer ]")
    assert host.does("cat /run/answer").startswith("a OK")
    assert host.property_of("perdition@imap4", "ActiveState") == "active"
    host.machine.wait_for(f"! [ -d /proc/{before} ]")
    assert host.property_of("perdition@imap4", "MainPID") == after
    for process in host.processes("perdition@imap4.service"):
        assert process.status("Seccomp") == ["2"], f"{process} has no filter"


def test_failed_takeover_does_not_affect_the_service(host: SystemdHost) -> None:
    host.does("systemctl start perdition@imap4")
    before = host.property_of("perdition@imap4", "MainPID")
    host.settings("--timeout soon")

    failed = host.tries("/usr/share/perdition/instances try-restart")

    assert failed.returncode == 1
    assert "the running one continues" in failed.stdout
    assert host.property_of("perdition@imap4", "MainPID") == before
    assert host.reads_mail(IMAP4)


def test_init_script_answers_for_the_instances(host: SystemdHost) -> None:
    """Not for perdition.service, which is active even if they failed."""
    host.settings(more='IMAP4S=yes IMAP4S_FLAGS="--timeout soon"')
    started = host.tries("/etc/init.d/perdition start")
    assert started.returncode == 1
    assert "perdition.imap4 started (process" in started.stdout
    assert "perdition.imaps cannot start" in started.stdout
    assert host.property_of("perdition", "ActiveState") == "active"
    status = host.tries("/etc/init.d/perdition status")
    assert status.returncode == 3
    assert "perdition.imaps is not running" in status.stdout
    assert "perdition.imap4 stopped" in host.does("/etc/init.d/perdition stop")
    for unit in ("perdition", "perdition@imap4"):
        assert host.property_of(unit, "ActiveState") == "inactive"
        assert host.property_of(unit, "Result") == "success"


@pytest.mark.parametrize("verb", ["restart", "try-restart"])
def test_init_script_restarts_without_systemd_s_restart(host: SystemdHost, verb: str) -> None:
    """systemd's would end all sessions."""
    host.does("/etc/init.d/perdition start")
    said = host.does(f"/etc/init.d/perdition {verb}")
    assert "perdition.imap4 restarted (process" in said
    assert host.reads_mail(IMAP4)


def test_init_script_starts_systemd_units(host: SystemdHost) -> None:
    host.does("/etc/init.d/perdition start")
    group = host.processes("perdition@imap4.service")
    assert any(process.title.startswith("perdition.imap4: master") for process in group)
    host.does("systemctl stop perdition")
    assert host.tries("/etc/init.d/perdition status").returncode == 3


def test_instance_that_cannot_start_fails_its_unit(host: SystemdHost) -> None:
    host.settings("--workers none")
    assert host.tries("systemctl start perdition@imap4").returncode
    assert host.property_of("perdition@imap4", "ActiveState") == "failed"
    assert host.property_of("perdition@imap4", "NRestarts") == "0"


def test_dead_master_is_restarted(host: SystemdHost) -> None:
    host.does("systemctl start perdition@imap4")
    host.does("kill -KILL $(systemctl show -P MainPID perdition@imap4)")
    host.machine.wait_for("[ $(systemctl show -P NRestarts perdition@imap4) = 1 ]")
    host.machine.wait_for("systemctl is-active perdition@imap4")
    assert host.reads_mail(IMAP4)


def test_pam_works_in_the_sandbox(host: SystemdHost) -> None:
    """The helper can read the shadow file and write to the audit log within the sandbox."""
    host.settings("-a")
    host.does("systemctl start perdition@imap4")
    assert host.reads_mail(IMAP4)
    assert not host.reads_mail(IMAP4, "wrong")


def test_key_readable_by_one_user_works(host: SystemdHost) -> None:
    host.does(
        "cd /root && openssl req -x509 -nodes -newkey rsa:2048 -days 2 -subj /CN=127.0.0.1"
        " -keyout key.pem -out crt.pem && chown mail key.pem && chmod 600 key.pem"
    )
    files = "--ssl_cert_file /root/crt.pem --ssl_key_file /root/key.pem"
    host.settings(f"--ssl_mode ssl_listen {files}", "IMAP4S=yes")
    host.does("systemctl start perdition@imaps")
    url = IMAP4.replace("imap:", "imaps:")
    assert host.reads_mail(url, options="--cacert /root/crt.pem --insecure")
    host.does("systemctl reload perdition@imaps")
    assert host.reads_mail(url, options="--cacert /root/crt.pem --insecure")
    assert not host.tries("grep -i 'configuration unchanged' /var/log/mail/perdition.log").stdout


@pytest.mark.parametrize("log", ["/srv/logs/mail.log", "/run/perdition.imap4/log"])
def test_log_file_may_be_in_any_directory(host: SystemdHost, log: str) -> None:
    host.does("mkdir -p /srv/logs")
    host.settings(f"-F {log}")
    host.does("systemctl start perdition@imap4")
    assert host.reads_mail(IMAP4)
    assert "Auth: " in host.does(f"cat {log}")


def test_syslog_gets_lines_from_the_sandbox(host: SystemdHost) -> None:
    host.settings("-F mail")
    host.does("systemctl start perdition@imap4")
    assert host.reads_mail(IMAP4)
    host.machine.wait_for("journalctl --no-pager | grep -q 'perdition.imap4.*Auth: '")


def test_socket_unit_opens_the_port(host: SystemdHost) -> None:
    host.does("systemctl start perdition@imap4.socket")
    assert host.property_of("perdition@imap4", "ActiveState") == "inactive"
    assert host.reads_mail(IMAP4)
    first = host.property_of("perdition@imap4", "MainPID")
    host.does("systemctl restart perdition@imap4")
    second = host.property_of("perdition@imap4", "MainPID")
    assert second != first
    host.does("/usr/share/perdition/instances try-restart")
    assert host.property_of("perdition@imap4", "MainPID") not in (first, second)
    assert host.reads_mail(IMAP4)
    host.does("systemctl stop perdition@imap4")
    assert host.reads_mail(IMAP4), "a client starts it again"


def test_sandbox_holds_every_process(host: SystemdHost) -> None:
    host.settings("-a --metrics_address 127.0.0.1:9000")
    host.does("systemctl start perdition@imap4")
    processes = host.processes("perdition@imap4.service")
    titles = sorted(re.sub(r".*: | \d.*", "", process.title) for process in processes)
    assert titles == ["helper", "helper supervisor", "master", "metrics", "worker", "worker"]
    bounds = {tuple(process.status("CapBnd")) for process in processes}
    assert bounds == {("00000000200004c3",)}, "what CapabilityBoundingSet= names"
    for process in processes:
        assert process.status("Seccomp") == ["2"], f"{process} has no filter"
        assert process.status("NoNewPrivs") == ["1"]
        assert process.core_limits() == ["0", "0"]
        assert not os.access(f"/proc/{process.pid}/root/usr/bin", os.W_OK)
        if process.status("Uid")[0] != "0":
            assert int(process.status("CapPrm")[0], 16) == 0


def test_sandbox_has_a_low_exposure(host: SystemdHost) -> None:
    host.does(f"systemd-analyze security --no-pager --threshold={EXPOSURE} perdition@imap4.service")


def test_tests_run_in_the_sandbox(folder: Path) -> None:
    """The tests find system calls that the unit does not allow."""
    if reason := sandbox.missing():
        pytest.skip(reason)
    with PerditionProcess("imap4", folder, "-M", "", "-s", "127.0.0.1:1") as proxy:
        for process in proxy.processes():
            assert process.status("Seccomp") == ["2"]


def test_apparmor_profile_is_sound() -> None:
    if not shutil.which("apparmor_parser"):
        pytest.skip("AppArmor's parser is not installed")
    profile = ROOT / "packaging/etc/apparmor.d/usr.sbin.perdition"
    command = ["apparmor_parser", "-Q", "-K", "--skip-kernel-load", str(profile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
