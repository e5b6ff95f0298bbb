"""A real Dovecot for POP3, IMAP4 and ManageSieve in a folder of its own, on ports of its own."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support import processes
from tests.support.wait import DEADLINE, until

_OWNER = "mail"
"""The system's account that the mail belongs to; Dovecot serves none of root's."""

_PLAIN = ("pop3", "imap4", "managesieve")
_TLS = ("pop3s", "imap4s")

_EVIDENCE_LINES = 60


class Certificate(NamedTuple):
    """A certificate and its private key, both PEM."""

    certificate: Path
    key: Path


class Dovecot:
    """One Dovecot, with users and their passwords; as a context it answers, then it is gone.

    `ports` has pop3, imap4 and managesieve; given a certificate, also pop3s and imap4s, and
    STARTTLS on the first three.
    """

    def __init__(
        self, folder: Path, users: Mapping[str, str], certificate: Certificate | None = None
    ) -> None:
        self.folder = folder
        names = _PLAIN + (_TLS if certificate else ())
        self.ports = dict(zip(names, processes.free_ports(len(names)), strict=True))
        self._log = folder / "dovecot.log"
        self._configuration = folder / "dovecot.conf"
        self._configuration.write_text(_configuration(folder, self.ports, certificate))
        passwords = "".join(f"{user}:{{PLAIN}}{password}\n" for user, password in users.items())
        (folder / "users").write_text(passwords)
        for user in users:
            for part in ("cur", "new", "tmp"):
                (self._home(user) / "Maildir" / part).mkdir(parents=True)
        self._serial = itertools.count(1)
        self._own(folder / "home")

    @staticmethod
    def missing() -> str | None:
        """Why no Dovecot can run here, if so."""
        if os.geteuid() != 0:
            return "Dovecot is started by root only"
        return None if _program() else "dovecot is not installed"

    def __enter__(self) -> Self:
        program = _program()
        assert program, "see missing()"
        self._master = subprocess.Popen(
            [program, "-F", "-c", self._configuration],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            until(lambda: all(map(processes.listening, self.ports.values())), self.evidence)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def server(self, protocol: str) -> str:
        """Where that protocol is spoken, as a popmap says it."""
        return f"127.0.0.1:{self.ports[protocol]}"

    def deliver(self, user: str, message: bytes) -> None:
        """Put a message into the user's inbox."""
        file = self._home(user) / "Maildir" / "new" / f"{next(self._serial)}.test"
        file.write_bytes(message)
        self._own(file)

    def evidence(self) -> str:
        """The end of its log."""
        lines = self._log.read_text().splitlines() if self._log.exists() else ["no log"]
        return "\n".join([f"Dovecot on {self.ports}", *lines[-_EVIDENCE_LINES:]])

    def _home(self, user: str) -> Path:
        return self.folder / "home" / user

    @staticmethod
    def _own(path: Path) -> None:
        """Give a file, or a folder and all in it, to the owner of the mail."""
        for each in (path, *path.rglob("*")):
            shutil.chown(each, _OWNER, _OWNER)

    def _end(self) -> None:
        """Have it end, and see that nothing of it stays."""
        self._master.terminate()
        self._master.wait(DEADLINE)
        processes.end_session(self._master.pid)


def _program() -> str | None:
    return shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _is_of_24() -> bool:
    """Whether its configuration is written as since version 2.4, which reads no older one."""
    shown = subprocess.check_output([_program() or "dovecot", "--version"], text=True)
    major, minor, *_ = shown.split(".")
    return (int(major), int(minor)) >= (2, 4)


def _accounts_of_23(folder: Path) -> str:
    """Who may log in, and where mail and scripts are, for version 2.3."""
    return f"""
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid={_OWNER} gid={_OWNER} home={folder}/home/%u
}}
mail_location = maildir:~/Maildir
plugin {{
  sieve = file:~/sieve;active=~/.dovecot.sieve
  sieve_max_script_size = 0
}}
"""


def _accounts_of_24(folder: Path) -> str:
    """The same for version 2.4."""
    return f"""
auth_allow_cleartext = yes
passdb passwd-file {{
  passwd_file_path = {folder}/users
}}
userdb static {{
  fields {{
    uid = {_OWNER}
    gid = {_OWNER}
    home = {folder}/home/%{{user}}
  }}
}}
mail_driver = maildir
mail_path = ~/Maildir
sieve_script personal {{
  path = ~/sieve
  active_path = ~/.dovecot.sieve
}}
sieve_max_script_size = 0
"""


def _configuration(folder: Path, ports: Mapping[str, int], certificate: Certificate | None) -> str:
    """A whole dovecot.conf; port 0 turns a listener off."""
    is_of_24 = _is_of_24()
    names = ("ssl_server_cert_file = ", "ssl_server_key_file = ")
    if not is_of_24:
        names = ("ssl_cert = <", "ssl_key = <")
    tls = "ssl = no"
    if certificate:
        tls = f"ssl = yes\n{names[0]}{certificate.certificate}\n{names[1]}{certificate.key}"
    versions = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0"
    return f"""{versions if is_of_24 else ""}
base_dir = {folder}/run
log_path = {folder}/dovecot.log
auth_verbose = yes
listen = 127.0.0.1
protocols = imap pop3 sieve
first_valid_uid = 1
mail_max_userip_connections = 0
{tls}
{_accounts_of_24(folder) if is_of_24 else _accounts_of_23(folder)}

# The biggest message and script that a test moves must pass.
default_vsz_limit = 2G

service imap-login {{
  inet_listener imap {{
    port = {ports["imap4"]}
  }}
  inet_listener imaps {{
    port = {ports.get("imap4s", 0)}
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {ports["pop3"]}
  }}
  inet_listener pop3s {{
    port = {ports.get("pop3s", 0)}
  }}
}}
service managesieve-login {{
  inet_listener sieve {{
    port = {ports["managesieve"]}
  }}
}}
"""
