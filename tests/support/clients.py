"""Mail clients that people use: each logs a user in and gives what it read, as text.

Each takes a `Login` and a folder for its files. The messages or the script names are in the text.
"""

import imaplib
import poplib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.wait import DEADLINE


class Login(NamedTuple):
    """Where to go, and as whom."""

    port: int
    user: str
    password: str


class Client(NamedTuple):
    """A client: the protocol it speaks, how it reads, and the program that it is."""

    protocol: str
    read: Callable[[Login, Path], str]
    program: str | None = None

    def missing(self) -> str | None:
        """Why it cannot run here, if so."""
        if self.program is None or shutil.which(self.program):
            return None
        return f"{self.program} is not installed"


def curl_pop3(login: Login, _folder: Path) -> str:
    """The first message, by RETR."""
    return _curl(login, f"pop3://127.0.0.1:{login.port}/1")


def curl_imap4(login: Login, _folder: Path) -> str:
    """The first message, by FETCH."""
    return _curl(login, f"imap://127.0.0.1:{login.port}/INBOX;MAILINDEX=1")


def standard_pop3(login: Login, _folder: Path) -> str:
    """Python's poplib."""
    client = poplib.POP3("127.0.0.1", login.port, timeout=DEADLINE)
    client.user(login.user)
    client.pass_(login.password)
    _, lines, _ = client.retr(1)
    client.quit()
    return b"\n".join(lines).decode()


def standard_imap4(login: Login, _folder: Path) -> str:
    """Python's imaplib."""
    with imaplib.IMAP4("127.0.0.1", login.port, timeout=DEADLINE) as client:
        client.login(login.user, login.password)
        client.select(readonly=True)
        _, [message, _] = client.fetch("1", "(BODY.PEEK[])")
        assert isinstance(message, tuple)
        return message[1].decode()


def fetchmail_pop3(login: Login, folder: Path) -> str:
    """fetchmail's POP3."""
    return _fetchmail("POP3", login, folder)


def fetchmail_imap4(login: Login, folder: Path) -> str:
    """fetchmail's IMAP."""
    return _fetchmail("IMAP", login, folder)


def mbsync(login: Login, folder: Path) -> str:
    """isync's mbsync, into a maildir."""
    configuration = folder / "mbsyncrc"
    configuration.write_text(
        f"""
IMAPAccount proxy
Host 127.0.0.1
Port {login.port}
User {login.user}
Pass {login.password}
SSLType None
AuthMechs LOGIN

IMAPStore far
Account proxy

MaildirStore near
Inbox {folder}/inbox

Channel mail
Far :far:
Near :near:
Create Near
Sync Pull
SyncState *
"""
    )
    _run("mbsync", "--config", configuration, "mail")
    return _maildir(folder / "inbox")


def mpop(login: Login, folder: Path) -> str:
    """mpop, into a maildir."""
    for part in ("cur", "new", "tmp"):
        (folder / "inbox" / part).mkdir(parents=True)
    configuration = _private(
        folder / "mpoprc",
        f"""
account proxy
host 127.0.0.1
port {login.port}
user {login.user}
password {login.password}
auth user
tls off
keep on
delivery maildir {folder}/inbox
uidls_file {folder}/uidls
""",
    )
    _run("mpop", "--file", configuration, "proxy")
    return _maildir(folder / "inbox")


def sieve_connect(login: Login, _folder: Path) -> str:
    """sieve-connect's list of scripts."""
    return _run(
        "sieve-connect",
        *("--nosrv", "--clearchan", "--server", "127.0.0.1", "--port", str(login.port)),
        *("--user", login.user, "--passwordfd", "0", "--list"),
        given=f"{login.password}\n",
    )


CLIENTS: Mapping[str, Client] = {
    "curl-pop3": Client("pop3", curl_pop3, "curl"),
    "curl-imap4": Client("imap4", curl_imap4, "curl"),
    "poplib": Client("pop3", standard_pop3),
    "imaplib": Client("imap4", standard_imap4),
    "fetchmail-pop3": Client("pop3", fetchmail_pop3, "fetchmail"),
    "fetchmail-imap4": Client("imap4", fetchmail_imap4, "fetchmail"),
    "mbsync": Client("imap4", mbsync, "mbsync"),
    "mpop": Client("pop3", mpop, "mpop"),
    "sieve-connect": Client("managesieve", sieve_connect, "sieve-connect"),
}


def _curl(login: Login, url: str) -> str:
    return _run("curl", "--silent", "--show-error", "--user", f"{login.user}:{login.password}", url)


def _fetchmail(protocol: str, login: Login, folder: Path) -> str:
    configuration = _private(
        folder / "fetchmailrc",
        f"poll 127.0.0.1 protocol {protocol} port {login.port} auth password\n"
        f'user "{login.user}" password "{login.password}" sslproto "" keep fetchall\n'
        f'mda "cat >>{folder}/mail"\n',
    )
    _run(
        *("fetchmail", "--nodetach", "--nosyslog", "--fetchmailrc", configuration),
        *("--pidfile", folder / "fetchmail.pid", "--idfile", folder / "fetchmail.ids"),
    )
    return (folder / "mail").read_text()


def _run(*command: str | Path, given: str = "") -> str:
    """What the program prints; it must succeed."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    told = f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    return done.stdout


def _private(file: Path, text: str) -> Path:
    """A file that only its owner may read: programs insist on it where a password is inside."""
    file.touch(0o600)
    file.write_text(text)
    return file


def _maildir(folder: Path) -> str:
    """All messages of a maildir."""
    return "\n".join(
        file.read_text() for part in ("cur", "new") for file in (folder / part).iterdir()
    )
