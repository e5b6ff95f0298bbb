"""Certificates and their keys: how they are read at start, and taken up anew while all goes on."""

import os
import pty
import re
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import PrivateFormat

from tests.process.conftest import PASSWORD, Started, needs_root
from tests.support import processes
from tests.support.authority import Authority, ec_key, encrypt
from tests.support.dovecot import Certificate
from tests.support.proxy import BIN, Proxy
from tests.support.session import TLS, Session
from tests.support.wait import DEADLINE, until
from tests.support.wire import Wire

PASSPHRASE = "correct horse"
USAGE = os.EX_USAGE


@pytest.fixture
def authority(folder: Path) -> Authority:
    """Whoever vouches for perdition; its files are in the test's folder."""
    return Authority(folder)


def shown(certificate: Certificate) -> tuple[str | Path, ...]:
    """The options that have clients shown this certificate."""
    files = ("--ssl_cert_file", certificate.certificate, "--ssl_key_file", certificate.key)
    return ("--ssl_mode", "ssl_listen", *files)


def holder(proxy: Proxy, authority: Authority, host: str = "localhost") -> str:
    """Whose certificate a new client is shown: its common name."""
    with Wire.to(proxy.address) as wire:
        certificate = wire.start_tls(authority.trusted(), host).getpeercert(binary_form=True)
    assert certificate, "no certificate is shown"
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string().removeprefix("CN=")


# Keys under a passphrase.


@pytest.fixture(params=[PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def locked(request: pytest.FixtureRequest, authority: Authority) -> Certificate:
    """A certificate whose key is under the passphrase, in either form that keys have."""
    key = ec_key()
    certificate = authority.issue("locked", key=key)
    encrypt(certificate, key, PASSPHRASE, request.param)
    return certificate


@pytest.fixture
def passphrase(folder: Path) -> Path:
    """A file with the passphrase, and a line that is none of it."""
    file = folder / "passphrase"
    file.write_text(f"{PASSPHRASE}\nsomething else\n")
    return file


def test_passphrase_from_a_file(
    locked: Certificate, passphrase: Path, authority: Authority, folder: Path
) -> None:
    """ssl_passphrase_file: its first line."""
    with Proxy("imap4", folder, *shown(locked), "--ssl_passphrase_file", passphrase) as proxy:
        assert holder(proxy, authority) == "locked"


def test_passphrase_from_a_descriptor(
    locked: Certificate, passphrase: Path, authority: Authority, folder: Path
) -> None:
    """ssl_passphrase_fd: its first line."""
    with passphrase.open() as source:
        number = source.fileno()
        option = ("--ssl_passphrase_fd", str(number))
        with Proxy("imap4", folder, *shown(locked), *option, descriptors=[number]) as proxy:
            assert holder(proxy, authority) == "locked"


def test_passphrase_from_standard_input(
    locked: Certificate, passphrase: Path, authority: Authority, folder: Path
) -> None:
    """Where no option tells another place."""
    with (
        passphrase.open() as source,
        Proxy("imap4", folder, *shown(locked), stdin=source.fileno()) as proxy,
    ):
        assert holder(proxy, authority) == "locked"


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: where somebody types, and where a program reads that."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def type_unseen(terminal: tuple[int, int], text: str) -> None:
    """Type a line once the terminal stops showing what is typed."""
    keyboard, screen = terminal
    until(lambda: not termios.tcgetattr(screen)[3] & termios.ECHO, "it asks for a passphrase")
    os.write(keyboard, f"{text}\n".encode())


def test_passphrase_is_asked_for_on_a_terminal(
    locked: Certificate, authority: Authority, folder: Path, terminal: tuple[int, int]
) -> None:
    """Nobody sees what is typed."""
    typist = Thread(target=type_unseen, args=(terminal, PASSPHRASE))
    typist.start()
    with Proxy("imap4", folder, *shown(locked), stdin=terminal[1]) as proxy:
        assert holder(proxy, authority) == "locked"
        assert PASSPHRASE not in proxy.evidence()
    typist.join()


# Certificates that it cannot start with.


@pytest.fixture
def files(authority: Authority, folder: Path) -> Path:
    """A folder with good.crt and good.key, and with much that is not good."""
    authority.issue("good")
    authority.issue("other")
    key = ec_key()
    encrypt(authority.issue("locked", key=key), key, PASSPHRASE, PrivateFormat.PKCS8)
    (folder / "wrong").write_text("wrong\n")
    (folder / "rubbish").write_text("-----BEGIN CERTIFICATE-----\nrubbish\n")
    return folder


GOOD = "--ssl_cert_file good.crt --ssl_key_file good.key "
LOCKED = "--ssl_cert_file locked.crt --ssl_key_file locked.key "


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--ssl_cert_file missing --ssl_key_file good.key", "missing: No such file"),
        ("--ssl_cert_file good.crt --ssl_key_file missing", "missing: No such file"),
        ("--ssl_cert_file rubbish --ssl_key_file good.key", r"ssl_cert_file \S*rubbish: "),
        ("--ssl_cert_file good.crt --ssl_key_file rubbish", r"ssl_cert_file \S*good.crt: "),
        ("--ssl_cert_file good.crt --ssl_key_file other.key", r"ssl_cert_file \S*good.crt: "),
        (GOOD + "--ssl_cert_file other.crt", "ssl_cert_file is set 2 times and ssl_key_file 1"),
        (LOCKED, r"ssl_cert_file \S*locked.crt: "),
        (LOCKED + "--ssl_passphrase_file wrong", r"ssl_cert_file \S*locked.crt: "),
        (LOCKED + "--ssl_passphrase_file missing", r"ssl_passphrase_file \S*missing: "),
        (LOCKED + "--ssl_passphrase_fd 99", "ssl_passphrase_fd 99: "),
        (LOCKED + "--ssl_passphrase_fd 0 --ssl_passphrase_file wrong", "both given"),
        (GOOD + "--ssl_listen_ciphers NONE-SUCH", "ssl_listen_ciphers NONE-SUCH: "),
        (GOOD + "--ssl_dh_params_file rubbish", r"ssl_dh_params_file \S*rubbish: "),
        (GOOD + "--ssl_dh_params_file missing", r"ssl_dh_params_file \S*missing: "),
        (GOOD + "--ssl_ca_file rubbish", r"ssl_ca_file \S*rubbish: "),
        (GOOD + "--ssl_ca_file missing", r"ssl_ca_file \S*missing: "),
        (GOOD + "--ssl_ca_chain_file missing", "missing: No such file"),
        (GOOD + "--ssl_mode ssl_listen,tls_listen", "either ssl_listen or tls_listen"),
        (GOOD + "--ssl_mode ssl_outgoing --ssl_outgoing_ciphers NONE-SUCH", "ssl_outgoing_ciphers"),
        (GOOD + "--ssl_mode ssl_outgoing --ssl_ca_file rubbish", r"ssl_ca_file \S*rubbish: "),
        (
            GOOD + "--ssl_listen_min_proto_version tlsv1.3 --ssl_listen_max_proto_version tlsv1.2",
            "ssl_listen_min_proto_version tlsv1.3 is above",
        ),
    ],
)
def test_start_is_refused_in_one_line_that_names_what_is_wrong(
    options: str, complaint: str, files: Path
) -> None:
    """Nothing listens with half of what was asked for."""
    mode = () if "--ssl_mode" in options else ("--ssl_mode", "ssl_listen")
    [port] = processes.free_ports(1)
    done = subprocess.run(
        [
            *(BIN / "perdition.imap4", "--no_daemon", "-f", "", "-F", "+", "--pid_file", ""),
            *("-b", "127.0.0.1", "-l", str(port), "-M", "", *mode, *options.split()),
        ],
        cwd=files,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert done.returncode == USAGE, done
    assert re.search(complaint, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert PASSPHRASE not in done.stderr


# Renewal: SIGHUP, while sessions stay open.


def copy(source: Certificate, target: Certificate) -> None:
    """Put a certificate and its key in the place of others."""
    target.certificate.unlink(missing_ok=True)
    target.certificate.write_bytes(source.certificate.read_bytes())
    target.key.write_bytes(source.key.read_bytes())


@pytest.fixture
def old(authority: Authority) -> Certificate:
    """What perdition starts with; only root may read the key."""
    certificate = authority.issue("old")
    assert certificate.key.stat().st_mode & 0o777 == 0o600
    return certificate


@pytest.fixture
def new(authority: Authority) -> Certificate:
    """What is to take its place."""
    return authority.issue("new")


def everybody_shows(proxy: Proxy, authority: Authority, name: str) -> bool:
    """Whether client after client, whichever worker they come to, is shown that certificate."""
    return all(holder(proxy, authority) == name for _ in range(16))


def expect_shown(proxy: Proxy, authority: Authority, name: str) -> None:
    """Wait until every worker shows that certificate."""
    until(
        lambda: everybody_shows(proxy, authority, name),
        lambda: f"the certificate of {name} is shown\n{proxy.evidence()}",
    )


@needs_root
def test_renewed_certificate_is_taken_up_while_a_session_stays(
    started: Started, authority: Authority, old: Certificate, new: Certificate
) -> None:
    """Also where only root may read the key, and nobody but the workers has to be told."""
    proxy = started.foreground("imap4", *shown(old), "--workers", "2")
    workers = proxy.workers()
    assert holder(proxy, authority) == "old"
    tls = TLS("ssl", authority.trusted())
    with Session(proxy.address, "imap4", "joe", PASSWORD, tls) as session:
        copy(new, old)
        os.kill(proxy.pid, signal.SIGHUP)
        expect_shown(proxy, authority, "new")

        session.use()
    assert [worker.pid for worker in proxy.workers()] == [worker.pid for worker in workers]


def be_rubbish(certificate: Certificate, _: Certificate) -> None:
    certificate.certificate.write_text("rubbish")


def be_gone(certificate: Certificate, _: Certificate) -> None:
    certificate.certificate.unlink()


def be_a_pipe(certificate: Certificate, _: Certificate) -> None:
    certificate.certificate.unlink()
    os.mkfifo(certificate.certificate)


def have_another_key(certificate: Certificate, other: Certificate) -> None:
    certificate.key.write_bytes(other.key.read_bytes())


@needs_root
@pytest.mark.parametrize("spoil", [be_rubbish, be_gone, be_a_pipe, have_another_key])
def test_bad_renewed_certificate_is_refused_and_the_old_one_kept(
    spoil: Callable[[Certificate, Certificate], None],
    started: Started,
    authority: Authority,
    old: Certificate,
    new: Certificate,
) -> None:
    """The log says why, and which file is meant; a better one is then taken up."""
    proxy = started.foreground("imap4", *shown(old), "--workers", "2")
    spoil(old, new)

    os.kill(proxy.pid, signal.SIGHUP)
    proxy.wait_for_log(f"nothing is changed: .*{old.certificate}")
    assert everybody_shows(proxy, authority, "old")

    copy(new, old)
    os.kill(proxy.pid, signal.SIGHUP)
    expect_shown(proxy, authority, "new")


@needs_root
def test_one_bad_certificate_of_several_keeps_them_all(
    started: Started, authority: Authority, old: Certificate, new: Certificate
) -> None:
    """A site never shows a mixture."""
    second = authority.issue("second", ["second.example"])
    proxy = started.foreground("imap4", *shown(old), *shown(second))
    copy(new, old)
    be_rubbish(second, new)

    os.kill(proxy.pid, signal.SIGHUP)
    proxy.wait_for_log(f"nothing is changed: .*{second.certificate}")

    assert everybody_shows(proxy, authority, "old")
    assert holder(proxy, authority, "second.example") == "second"


@needs_root
def test_bad_configuration_keeps_the_certificate(
    started: Started, authority: Authority, old: Certificate, new: Certificate, folder: Path
) -> None:
    """A mistake anywhere leaves everything as it was."""
    configuration = folder / "perdition.conf"
    configuration.write_text("timeout 100\n")
    proxy = started.foreground("imap4", *shown(old), "--workers", "2", "-f", configuration)
    copy(new, old)
    configuration.write_text("timeout soon\n")

    os.kill(proxy.pid, signal.SIGHUP)
    proxy.wait_for_log("nothing is changed: .*timeout 'soon'")
    assert everybody_shows(proxy, authority, "old")

    configuration.write_text("timeout 100\n")
    os.kill(proxy.pid, signal.SIGHUP)
    expect_shown(proxy, authority, "new")


@needs_root
def test_worker_that_starts_later_has_the_renewed_certificate(
    started: Started, authority: Authority, old: Certificate, new: Certificate
) -> None:
    """It comes from a master that has taken it up too."""
    proxy = started.foreground("imap4", *shown(old), "--workers", "1")
    copy(new, old)
    os.kill(proxy.pid, signal.SIGHUP)
    expect_shown(proxy, authority, "new")

    [worker] = proxy.workers()
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: [worker] != proxy.workers() != [], lambda: f"a worker\n{proxy.evidence()}")
    assert everybody_shows(proxy, authority, "new")


@needs_root
def test_several_sighups_at_once_end_with_what_is_there(
    started: Started, authority: Authority, old: Certificate, new: Certificate
) -> None:
    """However they overtake each other."""
    proxy = started.foreground("imap4", *shown(old), "--workers", "2")
    copy(new, old)
    for _ in range(20):
        os.kill(proxy.pid, signal.SIGHUP)

    expect_shown(proxy, authority, "new")


@needs_root
def test_worker_that_cannot_read_the_renewed_certificate_says_so(
    started: Started, authority: Authority, old: Certificate, new: Certificate
) -> None:
    """Or clients would be shown, by chance, the one or the other, and nobody knew."""
    proxy = started.foreground("imap4", *shown(old), "--workers", "1")
    [worker] = proxy.workers()

    def roots() -> list[processes.Process]:
        return [process for process in proxy.processes() if process.uid == 0]

    until(lambda: any("helper" in root.title for root in roots()), proxy.evidence)
    copy(new, old)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_for_log("SIGHUP: configuration, popmap and certificates are read again")
        for root in sorted(roots(), key=lambda process: process.title, reverse=True):
            os.kill(root.pid, signal.SIGKILL)  # the keeper, then the helper that it would replace
    finally:
        os.kill(worker.pid, signal.SIGCONT)

    proxy.wait_for_log("worker 1 keeps the old certificates: ")


# Who is root for it.


@needs_root
@pytest.mark.parametrize("deadly", [signal.SIGTERM, signal.SIGKILL])
def test_who_stays_root_ends_with_the_master(
    deadly: signal.Signals, started: Started, old: Certificate
) -> None:
    """Who reads keys again is nobody whom the network reaches, and does not outlive the rest."""
    proxy = started.foreground("imap4", *shown(old))

    def find_roots() -> list[processes.Process] | None:
        found = [process for process in proxy.processes() if process.uid == 0]
        return found if any("helper" in root.title for root in found) else None

    roots = until(find_roots, proxy.evidence)
    assert not [root for root in roots if root in proxy.workers() or root.pid == proxy.pid]

    os.kill(proxy.pid, deadly)
    proxy.wait()
    until(lambda: not proxy.processes(), lambda: f"the end of all\n{proxy.evidence()}")


@needs_root
def test_nobody_stays_root_where_no_certificate_is_shown(started: Started) -> None:
    """TLS with real servers alone needs nothing that is root's."""
    proxy = started.foreground("imap4", "--ssl_mode", "ssl_outgoing")

    assert 0 not in [process.uid for process in proxy.processes()], proxy.evidence()
