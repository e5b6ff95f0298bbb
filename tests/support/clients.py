"""Mail clients that people use: each logs a user in and gives what it read, as text.

Each takes a `Login` and a folder for its files. The messages or the script names are in the text.
"""

import imaplib
import poplib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.sieve import SieveClient
from tests.support.wait import DEADLINE


class Login(NamedTuple):
    """Where to go, as whom, and how: with TLS ("ssl" or "starttls") an authority is trusted."""

    port: int
    user: str
    password: str
    tls: str = ""
    authority: Path | None = None

    @property
    def host(self) -> str:
        """A name that certificates are for; without TLS it need not be looked up."""
        return "localhost" if self.tls else "127.0.0.1"

    @property
    def context(self) -> ssl.SSLContext:
        """TLS for Python's clients."""
        return ssl.create_default_context(cafile=self.authority)

    def choose(self, plain: str, from_the_first_byte: str, starttls: str) -> str:
        """What a client's configuration says for this use of TLS."""
        return {"": plain, "ssl": from_the_first_byte, "starttls": starttls}[self.tls].format(
            authority=self.authority
        )


class Client(NamedTuple):
    """A client: the protocol it speaks, how it reads, the program that it is, and its TLS."""

    protocol: str
    read: Callable[[Login, Path], str]
    program: str | None = None
    tls: tuple[str, ...] = ("ssl", "starttls")

    def missing(self) -> str | None:
        """Why it cannot run here, if so."""
        if self.program is None or shutil.which(self.program):
            return None
        return f"{self.program} is not installed"


def curl_pop3(login: Login, _folder: Path) -> str:
    """The first message, by RETR."""
    return _curl(login, login.choose("pop3", "pop3s", "pop3"), "1")


def curl_imap4(login: Login, _folder: Path) -> str:
    """The first message, by FETCH."""
    return _curl(login, login.choose("imap", "imaps", "imap"), "INBOX;MAILINDEX=1")


def standard_pop3(login: Login, _folder: Path) -> str:
    """Python's poplib."""
    client: poplib.POP3
    if login.tls == "ssl":
        client = poplib.POP3_SSL(login.host, login.port, timeout=DEADLINE, context=login.context)
    else:
        client = poplib.POP3(login.host, login.port, timeout=DEADLINE)
    if login.tls == "starttls":
        client.stls(login.context)
    client.user(login.user)
    client.pass_(login.password)
    _, lines, _ = client.retr(1)
    client.quit()
    return b"\n".join(lines).decode()


def standard_imap4(login: Login, _folder: Path) -> str:
    """Python's imaplib."""
    client: imaplib.IMAP4
    if login.tls == "ssl":
        client = imaplib.IMAP4_SSL(
            login.host, login.port, ssl_context=login.context, timeout=DEADLINE
        )
    else:
        client = imaplib.IMAP4(login.host, login.port, timeout=DEADLINE)
    with client:
        if login.tls == "starttls":
            client.starttls(login.context)
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
    trust = "\nSystemCertificates no\nCertificateFile {authority}"
    configuration = folder / "mbsyncrc"
    configuration.write_text(
        f"""
IMAPAccount proxy
Host {login.host}
Port {login.port}
User {login.user}
Pass {login.password}
AuthMechs LOGIN
{login.choose("SSLType None", *(f"SSLType {use}{trust}" for use in ("IMAPS", "STARTTLS")))}

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
    trust = "tls on\ntls_trust_file {authority}\n"
    for part in ("cur", "new", "tmp"):
        (folder / "inbox" / part).mkdir(parents=True)
    configuration = _private(
        folder / "mpoprc",
        f"""
account proxy
host {login.host}
port {login.port}
user {login.user}
password {login.password}
auth user
{login.choose("tls off", *(f"{trust}tls_starttls {word}" for word in ("off", "on")))}
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
        *("--nosrv", "--server", login.host, "--port", str(login.port)),
        login.choose("--clearchan", "", "--tlscafile={authority}"),
        *("--user", login.user, "--passwordfd", "0", "--list"),
        given=f"{login.password}\n",
    )


def sieve_client(login: Login, _folder: Path) -> str:
    """The list of scripts, by the tests' own client."""
    connection = socket.create_connection((login.host, login.port), DEADLINE)
    if login.tls == "ssl":
        connection = login.context.wrap_socket(connection, server_hostname=login.host)
    client = SieveClient(connection)
    if login.tls == "starttls":
        client.starttls(login.context, login.host)
    client.login(login.user, login.password)
    scripts = client.listscripts()
    client.logout()
    return "\n".join(scripts)


CLIENTS: Mapping[str, Client] = {
    "curl-pop3": Client("pop3", curl_pop3, "curl"),
    "curl-imap4": Client("imap4", curl_imap4, "curl"),
    "poplib": Client("pop3", standard_pop3),
    "imaplib": Client("imap4", standard_imap4),
    "fetchmail-pop3": Client("pop3", fetchmail_pop3, "fetchmail"),
    "fetchmail-imap4": Client("imap4", fetchmail_imap4, "fetchmail"),
    "mbsync": Client("imap4", mbsync, "mbsync"),
    "mpop": Client("pop3", mpop, "mpop"),
    "sieve-connect": Client("managesieve", sieve_connect, "sieve-connect", ("starttls",)),
    "sieve-client": Client("managesieve", sieve_client),
}


def _curl(login: Login, scheme: str, path: str) -> str:
    trust = ("--ssl-reqd", "--cacert", login.authority) if login.authority else ()
    return _run(
        *("curl", "--silent", "--show-error", *trust),
        *("--user", f"{login.user}:{login.password}"),
        f"{scheme}://{login.host}:{login.port}/{path}",
    )


def _fetchmail(protocol: str, login: Login, folder: Path) -> str:
    plain, trust = 'sslproto ""', 'sslproto TLS1.2+ sslcertck sslcertfile "{authority}"'
    configuration = _private(
        folder / "fetchmailrc",
        f"poll {login.host} protocol {protocol} port {login.port} auth password\n"
        f'user "{login.user}" password "{login.password}" keep fetchall\n'
        f"{login.choose(plain, f'ssl {trust}', trust)}\n"
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
