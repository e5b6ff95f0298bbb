"""The set-ups of perdition-setup(7) and README.md, as printed, with the system's own Dovecot.

The site is a container: perdition's host, and two network namespaces with a Dovecot each. Every
file and most commands are taken from the pages.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.conftest import needs_root
from tests.support.authority import Authority, self_signed
from tests.support.booted import SYSTEMD, BootedMachine
from tests.support.dovecot import Certificate, Dovecot
from tests.support.folders import ROOT, public_folder

pytestmark = [needs_root, pytest.mark.slow]

PASSWORDS = {"joe": "secret-of-joe", "ann": "secret-of-ann"}
REAL_SERVERS = {"joe": "north.example.com", "ann": "south.example.com"}
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

PAGE = (ROOT / "man/perdition-setup.7").read_text().replace("\\-", "-")
PAGE_BLOCKS = re.findall(r"\.nf\n(.*?)\.fi\n", PAGE, re.DOTALL)
PAGE_FILES: dict[tuple[str, str], str] = {
    (version, path): content
    for version, path, content in re.findall(
        r"(?:Dovecot (.*), in\n)?\.IR (/\S+) .*\n(?:mode.*\n)?\.PP\n\.RS\n\.nf\n((?:.*\n)*?)\.fi\n",
        PAGE,
    )
}
"""By version of Dovecot, or "", and path."""
README = (ROOT / "README.md").read_text().partition("## Configure it\n")[2].partition("\n## ")[0]
README_BLOCKS = [
    re.sub(r"^    ", "", block, flags=re.MULTILINE)
    for block in re.findall(r"\n\n((?:    .*\n)+)", README)
]


def block(blocks: list[str], beginning: str) -> str:
    """The only block that begins so."""
    [found] = [block for block in blocks if block.startswith(beginning)]
    return found


def page_file(path: str, version: str = "") -> str:
    return PAGE_FILES[version, path]


def addresses() -> dict[str, str]:
    """The hosts' names and addresses, from the zone."""
    zone = block(PAGE_BLOCKS, "mail  ")
    found = re.findall(r"^(\w+) +A +(\S+)$", zone, re.MULTILINE)
    return {f"{name}.example.com": address for name, address in found}


class Site:
    """The hosts, with their names in /etc/hosts and certificates where certbot has them."""

    def __init__(self, machine: BootedMachine, folder: Path) -> None:
        self.machine = machine
        self.does, self.tries, self.write = machine.does, machine.tries, machine.write
        self.authority = Authority(folder)
        self.does(f"mkdir -p {Path(BUNDLE).parent} && cat {self.authority.file} >>{BUNDLE}")
        hosts = addresses()
        self.address = hosts["mail.example.com"]
        lines = "".join(f"{address} {name}\n" for name, address in hosts.items())
        self.write("/etc/hosts", f"127.0.0.1 localhost\n{lines}")
        for name in hosts:
            self.issue_certificate(name)
        for user, password in PASSWORDS.items():
            machine.add_user(user, password)
            self.write(
                f"/var/mail/{user}",
                f"From x Wed Nov 25 12:00:00 2026\nSubject: for {user}\n\nText\n",
            )
            self.does(f"chown {user}:mail /var/mail/{user}")
            self.does(f"runuser -u {user} -- mkdir /home/{user}/sieve")
            self.does(f"runuser -u {user} -- touch /home/{user}/sieve/script-of-{user}.sieve")
        # Debian's package makes it with the help of ssl-cert, which tests do not install.
        self.install(self_signed(folder), "/etc/dovecot/private/dovecot.pem", "dovecot.key")
        for name in REAL_SERVERS.values():
            self.connect(name, hosts[name])

    def issue_certificate(self, name: str) -> None:
        certificate = f"/etc/letsencrypt/live/{name}/fullchain.pem"
        self.install(self.authority.issue(name, [name]), certificate, "privkey.pem")
        self.does("chmod 700 /etc/letsencrypt/live")

    def install(self, files: Certificate, certificate: str, key: str) -> None:
        """Write a certificate, and its key, which only root can read, beside it."""
        self.write(certificate, files.certificate.read_text())
        key = str(Path(certificate).with_name(key))
        self.does(f"touch {key} && chmod 600 {key}")
        self.write(key, files.key.read_text())

    def connect(self, name: str, address: str) -> None:
        """Create a host: a network namespace with a link to perdition's."""
        host = name.partition(".")[0]
        self.does(f"""set -e
            ip netns add {host}
            ip link add name {host} type veth peer name {host} netns {host}
            ip address add {self.address} peer {address} dev {host}
            ip link set {host} up
            ip -n {host} address add {address} peer {self.address} dev {host}
            ip -n {host} link set {host} up
            ip -n {host} link set lo up
            """)

    def start_dovecots(self, configuration: str) -> None:
        """Start the system's Dovecot on each host, with an addition to its configuration."""
        for name in REAL_SERVERS.values():
            host = name.partition(".")[0]
            self.write(f"/srv/{host}.conf", configuration.replace("north.example.com", name))
            self.does(f"""
                systemctl stop dovecot-{host} 2>/dev/null
                touch /etc/dovecot/local.conf
                systemd-run --quiet --unit dovecot-{host} \
                    -p NetworkNamespacePath=/run/netns/{host} \
                    -p TemporaryFileSystem=/run/dovecot \
                    -p BindReadOnlyPaths=/srv/{host}.conf:/etc/dovecot/local.conf dovecot -F
                """)
            self.machine.wait_for(f"ip netns exec {host} ss -ltn | grep -q :4190")

    def run_on(self, name: str, command: str) -> str:
        """Run a command on a real server's host."""
        pid = f"$(systemctl show -P MainPID dovecot-{name.partition('.')[0]})"
        return self.does(f"nsenter -m -n --root --wd -t {pid} {command}")

    def fetch(self, user: str, url: str, options: str = "") -> subprocess.CompletedProcess[str]:
        curl = f"curl --silent --show-error --max-time 20 {options}"
        return self.tries(f"{curl} --user {user}:{PASSWORDS[user]} '{url}'")

    def run_python(self, script: str, user: str) -> str:
        """Run a script with the user's name and password as arguments."""
        self.write("/srv/script.py", script)
        return self.does(f"{sys.executable} /srv/script.py {user} {PASSWORDS[user]}")

    def log_in_with_tls(self, user: str) -> None:
        """Log in over each protocol, with the certificate verified."""
        for url in URLS:
            assert f"Subject: for {user}" in self.fetch(user, url).stdout
        assert f"Subject: for {user}" in self.run_python(STARTTLS, user)
        assert f"script-of-{user}" in self.list_scripts(user, f"--tlscafile {BUNDLE}")

    def list_scripts(self, user: str, options: str) -> str:
        return self.does(
            f"echo {PASSWORDS[user]} | sieve-connect --nosrv --server mail.example.com {options} "
            f"--user {user} --passwordfd 0 --list"
        )

    def auth_lines(self) -> list[str]:
        """What the page's command shows of the log."""
        return self.does(block(PAGE_BLOCKS, "journalctl ")).splitlines()

    def served_certificate(self) -> str:
        connect = "openssl s_client -connect mail.example.com:993 </dev/null 2>/dev/null"
        return self.does(f"{connect} | openssl x509 -noout -serial")

    def evidence(self) -> str:
        self.tries("journalctl --no-pager --output short-precise | tail -60")
        return self.machine.evidence()


@pytest.fixture
def site() -> Iterator[Site]:
    if not SYSTEMD.exists():
        pytest.skip("systemd is not installed")
    if reason := Dovecot.missing():
        pytest.skip(reason)
    with public_folder() as folder, BootedMachine(folder) as machine:
        machine.install_perdition()
        yield Site(machine, folder)


def dovecot_version() -> str:
    """The version of this system's Dovecot, as the page distinguishes them."""
    program = shutil.which("dovecot", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert program
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return ".".join(shown.stdout.split(".")[:2])


URLS = ("imaps://mail.example.com/INBOX;UID=1", "pop3s://mail.example.com/1")

STARTTLS = f"""
import imaplib, ssl, sys
with imaplib.IMAP4("mail.example.com", timeout=20) as session:
    session.starttls(ssl.create_default_context(cafile="{BUNDLE}"))
    session.login(*sys.argv[1:])
    session.select(readonly=True)
    print(session.fetch("1", "(BODY.PEEK[])"))
"""

MANY_SESSIONS = """
import imaplib, sys
sessions = [imaplib.IMAP4_SSL("mail.example.com", timeout=20) for _ in range(12)]
for session in sessions:
    session.login(*sys.argv[1:])
"""
"""More than Dovecot's default of 10 for one user from one address."""


def test_setup_of_the_manual(site: Site) -> None:
    site.start_dovecots(page_file("/etc/dovecot/local.conf", dovecot_version()))
    hook = "/etc/letsencrypt/renewal-hooks/deploy/perdition"
    files = ("/etc/perdition/popmap", "/etc/perdition/perdition.conf", "/etc/default/perdition")
    for path in (*files, hook):
        site.write(path, page_file(path))
    site.does(f"chmod 755 {hook}")
    site.does(block(PAGE_BLOCKS, "makegdbm "))

    assert site.does(block(PAGE_BLOCKS, "systemctl enable ")).count(" is running ") == 4
    assert "north.example.com" in site.does(block(PAGE_BLOCKS, "perdition --lookup"))

    for user in PASSWORDS:
        site.log_in_with_tls(user)
    lines = site.auth_lines()
    for user, server in REAL_SERVERS.items():
        mine = [line for line in lines if f'"{user}"' in line]
        assert len(mine) == 4
        for line in mine:
            assert re.search(rf'server="{server}:.*server-secure=starttls status="ok"', line)
    assert site.fetch("joe", "imap://mail.example.com/").returncode, (
        "a login without TLS is refused"
    )

    before = site.served_certificate()
    site.issue_certificate("mail.example.com")
    site.does(hook)
    serial = site.does(
        "openssl x509 -noout -serial -in /etc/letsencrypt/live/mail.example.com/fullchain.pem"
    )
    assert serial != before
    site.machine.wait_for(
        "openssl s_client -connect mail.example.com:993 </dev/null 2>/dev/null | "
        f"openssl x509 -noout -serial | grep -q {serial.strip()}"
    )

    site.run_python(MANY_SESSIONS, "joe")
    assert site.tries("curl --silent --user joe:wrong imaps://mail.example.com/").returncode
    penalties = site.run_on("north.example.com", "doveadm penalty")
    assert not penalties.splitlines()[1:]


def test_setup_of_the_readme(site: Site) -> None:
    trusted = block(README_BLOCKS, "login_trusted_networks")
    site.start_dovecots(trusted)
    site.write("/etc/perdition/popmap", block(README_BLOCKS, "joe:"))
    options = block(README_BLOCKS, "outgoing_server")
    site.write("/etc/perdition/perdition.conf", options)
    site.does(f"cd {ROOT} && {block(README_BLOCKS, 'bin/makegdbm')}")
    site.does(f"cd {ROOT} && set -e\n{block(README_BLOCKS, 'bin/perdition.imap4')}")
    for user in PASSWORDS:
        for url in ("imap://mail.example.com/INBOX;UID=1", "pop3://mail.example.com/1"):
            assert f"Subject: for {user}" in site.fetch(user, url).stdout
        assert f"script-of-{user}" in site.list_scripts(user, "--clearchan")
    site.does("kill $(cat /run/perdition.*/*.pid)")
    site.machine.wait_for("! ls /run/perdition.*/*.pid 2>/dev/null")

    certificates = page_file("/etc/dovecot/local.conf", dovecot_version()).splitlines()[:2]
    site.start_dovecots("\n".join([*certificates, ""]))
    live = "/etc/letsencrypt/live/mail.example.com"
    site.does(f"cp {live}/fullchain.pem /etc/perdition/mail.crt.pem")
    site.does(f"cp -p {live}/privkey.pem /etc/perdition/mail.key.pem")
    site.write("/etc/perdition/perdition.conf", options + block(README_BLOCKS, "ssl_mode "))
    for commands in ("bin/perdition.imap4", "bin/perdition.imaps"):
        site.does(f"cd {ROOT} && set -e\n{block(README_BLOCKS, commands)}")
    for user in PASSWORDS:
        site.log_in_with_tls(user)
    site.does("kill $(cat /run/perdition.*/*.pid)")
