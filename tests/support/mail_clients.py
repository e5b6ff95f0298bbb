"""Common mail clients: each logs in and returns what it read, messages or script names, as text.

Each takes its settings and a folder for its files.
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


class ClientSettings(NamedTuple):
    """The account settings of a mail client. `tls` is "", "ssl" or "starttls"."""

    port: int
    user: str
    password: str
    tls: str = ""
    authority: Path | None = None

    @property
    def host(self) -> str:
        """With TLS, the name in the certificates."""
        return "localhost" if self.tls else "127.0.0.1"

    @property
    def context(self) -> ssl.SSLContext:
        """The TLS context of Python's clients."""
        return ssl.create_default_context(cafile=self.authority)

    def choose(self, plain: str, from_the_first_byte: str, starttls: str) -> str:
        """The one of three configuration texts that is for this use of TLS."""
        return {"": plain, "ssl": from_the_first_byte, "starttls": starttls}[self.tls].format(
            authority=self.authority
        )


class MailClient(NamedTuple):
    """A client: its protocol, how it reads, its program if it is one, and its uses of TLS."""

    protocol: str
    read: Callable[[ClientSettings, Path], str]
    program: str | None = None
    tls: tuple[str, ...] = ("ssl", "starttls")

    def missing(self) -> str | None:
        """Why it cannot run here, if so."""
        if self.program is None or shutil.which(self.program):
            return None
        return f"{self.program} is not installed"


def curl_pop3(settings: ClientSettings, _folder: Path) -> str:
    """The first message, by RETR."""
    return _curl(settings, settings.choose("pop3", "pop3s", "pop3"), "1")


def curl_imap4(settings: ClientSettings, _folder: Path) -> str:
    """The first message, by FETCH."""
    return _curl(settings, settings.choose("imap", "imaps", "imap"), "INBOX;MAILINDEX=1")


def standard_pop3(settings: ClientSettings, _folder: Path) -> str:
    """Python's poplib."""
    client: poplib.POP3
    if settings.tls == "ssl":
        client = poplib.POP3_SSL(
            settings.host, settings.port, timeout=DEADLINE, context=settings.context
        )
    else:
        client = poplib.POP3(settings.host, settings.port, timeout=DEADLINE)
    if settings.tls == "starttls":
        client.stls(settings.context)
    client.user(settings.user)
    client.pass_(settings.password)
    _, lines, _ = client.retr(1)
    client.quit()
    return b"\n".join(lines).decode()


def standard_imap4(settings: ClientSettings, _folder: Path) -> str:
    """Python's imaplib."""
    client: imaplib.IMAP4
    if settings.tls == "ssl":
        client = imaplib.IMAP4_SSL(
            settings.host, settings.port, ssl_context=settings.context, timeout=DEADLINE
        )
    else:
        client = imaplib.IMAP4(settings.host, settings.port, timeout=DEADLINE)
    with client:
        if settings.tls == "starttls":
            client.starttls(settings.context)
        client.login(settings.user, settings.password)
        client.select(readonly=True)
        _, [message, _] = client.fetch("1", "(BODY.PEEK[])")
        assert isinstance(message, tuple)
        return message[1].decode()


def fetchmail_pop3(settings: ClientSettings, folder: Path) -> str:
    """fetchmail's POP3."""
    return _fetchmail("POP3", settings, folder)


def fetchmail_imap4(settings: ClientSettings, folder: Path) -> str:
    """fetchmail's IMAP."""
    return _fetchmail("IMAP", settings, folder)


def mbsync(settings: ClientSettings, folder: Path) -> str:
    """isync's mbsync, into a maildir."""
    trust = "\nSystemCertificates no\nCertificateFile {authority}"
    configuration = folder / "mbsyncrc"
    configuration.write_text(
        f"""
IMAPAccount proxy
Host {settings.host}
Port {settings.port}
User {settings.user}
Pass {settings.password}
AuthMechs LOGIN
{settings.choose("SSLType None", *(f"SSLType {use}{trust}" for use in ("IMAPS", "STARTTLS")))}

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


def mpop(settings: ClientSettings, folder: Path) -> str:
    """mpop, into a maildir."""
    trust = "tls on\ntls_trust_file {authority}\n"
    for part in ("cur", "new", "tmp"):
        (folder / "inbox" / part).mkdir(parents=True)
    configuration = _private(
        folder / "mpoprc",
        f"""
account proxy
host {settings.host}
port {settings.port}
user {settings.user}
password {settings.password}
auth user
{settings.choose("tls off", *(f"{trust}tls_starttls {word}" for word in ("off", "on")))}
keep on
delivery maildir {folder}/inbox
uidls_file {folder}/uidls
""",
    )
    _run("mpop", "--file", configuration, "proxy")
    return _maildir(folder / "inbox")


def sieve_connect(settings: ClientSettings, _folder: Path) -> str:
    """sieve-connect's list of scripts."""
    return _run(
        "sieve-connect",
        *("--nosrv", "--server", settings.host, "--port", str(settings.port)),
        settings.choose("--clearchan", "", "--tlscafile={authority}"),
        *("--user", settings.user, "--passwordfd", "0", "--list"),
        given=f"{settings.password}\n",
    )


def sieve_client(settings: ClientSettings, _folder: Path) -> str:
    """The list of scripts, by the tests' own client."""
    connection = socket.create_connection((settings.host, settings.port), DEADLINE)
    if settings.tls == "ssl":
        connection = settings.context.wrap_socket(connection, server_hostname=settings.host)
    client = SieveClient(connection)
    if settings.tls == "starttls":
        client.starttls(settings.context, settings.host)
    client.login(settings.user, settings.password)
    scripts = client.listscripts()
    client.logout()
    return "\n".join(scripts)


CLIENTS: Mapping[str, MailClient] = {
    "curl-pop3": MailClient("pop3", curl_pop3, "curl"),
    "curl-imap4": MailClient("imap4", curl_imap4, "curl"),
    "poplib": MailClient("pop3", standard_pop3),
    "imaplib": MailClient("imap4", standard_imap4),
    "fetchmail-pop3": MailClient("pop3", fetchmail_pop3, "fetchmail"),
    "fetchmail-imap4": MailClient("imap4", fetchmail_imap4, "fetchmail"),
    "mbsync": MailClient("imap4", mbsync, "mbsync"),
    "mpop": MailClient("pop3", mpop, "mpop"),
    "sieve-connect": MailClient("managesieve", sieve_connect, "sieve-connect", ("starttls",)),
    "sieve-client": MailClient("managesieve", sieve_client),
}


def _curl(settings: ClientSettings, scheme: str, path: str) -> str:
    trust = ("--ssl-reqd", "--cacert", settings.authority) if settings.authority else ()
    return _run(
        *("curl", "--silent", "--show-error", *trust),
        *("--user", f"{settings.user}:{settings.password}"),
        f"{scheme}://{settings.host}:{settings.port}/{path}",
    )


def _fetchmail(protocol: str, settings: ClientSettings, folder: Path) -> str:
    plain, trust = 'sslproto ""', 'sslproto TLS1.2+ sslcertck sslcertfile "{authority}"'
    configuration = _private(
        folder / "fetchmailrc",
        f"poll {settings.host} protocol {protocol} port {settings.port} auth password\n"
        f'user "{settings.user}" password "{settings.password}" keep fetchall\n'
        f"{settings.choose(plain, f'ssl {trust}', trust)}\n"
        f'mda "cat >>{folder}/mail"\n',
    )
    _run(
        *("fetchmail", "--nodetach", "--nosyslog", "--fetchmailrc", configuration),
        *("--pidfile", folder / "fetchmail.pid", "--idfile", folder / "fetchmail.ids"),
    )
    return (folder / "mail").read_text()


def _run(*command: str | Path, given: str = "") -> str:
    """The output of a program that must succeed."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    told = f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    return done.stdout


def _private(file: Path, text: str) -> Path:
    """A file with mode 0600: programs insist on it for passwords."""
    file.touch(0o600)
    file.write_text(text)
    return file


def _maildir(folder: Path) -> str:
    """All messages of a maildir."""
    return "\n".join(
        file.read_text() for part in ("cur", "new") for file in (folder / part).iterdir()
    )
