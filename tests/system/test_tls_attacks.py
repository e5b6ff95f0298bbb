"""Attacks on TLS by clients, real servers and a man in the middle."""

import random
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TypeVar

import pytest
from OpenSSL import SSL

from tests.support.authority import EXPIRED, HERE, NOT_YET_VALID, Authority, self_signed, showing
from tests.support.client_connection import (
    PROTOCOLS,
    ClientTLS,
    RawConnection,
    connect_and_read_greeting,
)
from tests.support.dovecot import Certificate
from tests.support.folders import public_folder
from tests.support.perdition import PerditionProcess, Perditions
from tests.support.scripted_server import (
    PASSWORD,
    SERVER_SCRIPTS,
    ScriptedServer,
    accept_login,
    answer_commands,
    client_and_server,
)

pytestmark = pytest.mark.slow

T = TypeVar("T")

BIG = 32 << 20
BEHIND = b"x" * 78 + b"\r\n"
ALERT = b"\x15"
AT_ONCE = 2.0
"""Seconds; a client that is served within them was not delayed."""

PASSWORD_COMMANDS = {"pop3": b"PASS", "imap4": b"LOGIN", "managesieve": b"AUTHENTICATE"}

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
either_way = pytest.mark.parametrize("use", ["ssl", "starttls"])


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """The certificate authority that perdition and clients trust."""
    with public_folder() as folder:
        yield Authority(folder)


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    """A valid certificate."""
    return authority.issue()


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    """The real server, scripted by each test."""
    with ScriptedServer() as found:
        yield found


class SharedPerditions:
    """Perditions in front of the scripted server, each started once for all tests."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        server: ScriptedServer,
        authority: Authority,
        certificate: Certificate,
    ) -> None:
        self._folder = folder
        self._stack = stack
        self._all: dict[tuple[str, ...], PerditionProcess] = {}
        self._latest: PerditionProcess | None = None
        self._options = (
            *("-M", "", "-s", server.name, "--workers", "1", "--ssl_ca_file", authority.file),
            *("--ssl_cert_file", certificate.certificate, "--ssl_key_file", certificate.key),
        )

    def start(self, protocol: str, mode: str, *options: str) -> PerditionProcess:
        """The perdition with that ssl_mode."""
        key = (protocol, mode, *options)
        if key not in self._all:
            proxy = PerditionProcess(
                protocol, self._folder, *self._options, "--ssl_mode", mode, *options
            )
            self._all[key] = self._stack.enter_context(proxy)
        self._latest = self._all[key]
        return self._all[key]

    def evidence(self) -> str:
        """That of the latest one."""
        return self._latest.evidence() if self._latest else ""


@pytest.fixture(scope="module")
def shared(
    server: ScriptedServer, authority: Authority, certificate: Certificate
) -> Iterator[SharedPerditions]:
    with public_folder() as folder, ExitStack() as stack:
        yield SharedPerditions(folder, stack, server, authority, certificate)


def tls_of(authority: Authority, use: str) -> ClientTLS:
    """TLS of a client that trusts the authority."""
    return ClientTLS(use, authority.trusted())


# Real servers with a wrong certificate.

IMPOSTORS = {
    "good": "",
    "of an authority below ours": "depth exceeds ssl_cert_verify_depth",
    "expired": "expired",
    "of an expired authority": "(expired|depth exceeds ssl_cert_verify_depth)",
    "not yet valid": "not yet valid",
    "of an authority not yet valid": "(not yet valid|depth exceeds ssl_cert_verify_depth)",
    "self-signed": "self-signed",
    "self-signed and expired": "(self-signed|expired)",
    "of an unknown root": "self-signed authority that is not trusted",
    "of an issuer that it hides": "unknown issuer",
    "for another name": "the certificate is not for 127.0.0.1 but for other.example, 127.0.0.2$",
}
"""Certificates of real servers, and the log's reason if one is not accepted."""

GOOD = {"good", "of an authority below ours"}

ACCEPTED: dict[tuple[str, ...], set[str]] = {
    (): GOOD,
    ("--ssl_cert_accept_expired",): GOOD | {"expired", "of an expired authority"},
    ("--ssl_cert_accept_not_yet_valid",): GOOD | {"not yet valid", "of an authority not yet valid"},
    ("--ssl_cert_accept_self_signed",): GOOD | {"self-signed"},
    ("--ssl_cert_accept_self_signed", "--ssl_cert_accept_expired"): GOOD
    | {"expired", "of an expired authority", "self-signed", "self-signed and expired"},
    ("--ssl_ca_accept_self_signed",): GOOD | {"of an unknown root"},
    ("--ssl_cert_verify_depth", "2"): GOOD,
    ("--ssl_cert_verify_depth", "1"): {"good"},
    ("--ssl_no_cn_verify",): GOOD | {"for another name"},
    ("--ssl_no_cert_verify",): set(IMPOSTORS) - {"for another name"},
    ("--ssl_no_cert_verify", "--ssl_no_cn_verify"): set(IMPOSTORS),
}
"""The certificates that perdition accepts with each option."""


@pytest.fixture(scope="module")
def impostors(authority: Authority) -> Iterator[dict[str, ssl.SSLContext]]:
    """The TLS contexts of real servers with these certificates."""
    with public_folder() as folder:
        stranger = Authority(folder, "stranger")

        def below(name: str, life: tuple[int, int]) -> Certificate:
            return Authority(folder, name, authority, life).issue(f"of {name}")

        certificates = (
            authority.issue("good"),
            below("middle", (-1, 1)),
            authority.issue("expired", life=EXPIRED),
            below("late", EXPIRED),
            authority.issue("early", life=NOT_YET_VALID),
            below("young", NOT_YET_VALID),
            self_signed(folder, "alone"),
            self_signed(folder, "alone and late", EXPIRED),
            stranger.issue("strange"),
            stranger.issue("hidden", chain=False),
            authority.issue("other", ["other.example", "127.0.0.2"]),
        )
        yield dict(zip(IMPOSTORS, map(showing, certificates), strict=True))


@pytest.fixture(scope="module")
def verifiers(authority: Authority) -> Iterator[dict[tuple[str, ...], PerditionProcess]]:
    """A perdition with each set of options. The client's user name has the real server."""
    with public_folder() as folder, ExitStack() as stack:
        common = ("-M", "", "-c", "--workers", "1", "--ssl_ca_file", authority.file)
        mode = ("--ssl_mode", "ssl_outgoing")
        yield {
            options: stack.enter_context(
                PerditionProcess("imap4", folder, *common, *mode, *options)
            )
            for options in ACCEPTED
        }


def gets_password(real: RawConnection, context: ssl.SSLContext) -> bool:
    """Whether perdition trusts a real server enough to send it the password."""
    with suppress(ssl.SSLError, ConnectionError):
        tls = real.start_tls(context)
        tls.sendall(SERVER_SCRIPTS["imap4"].greeting)
        return PASSWORD.encode() in tls.recv(4096)
    return False


@pytest.mark.parametrize("kind", IMPOSTORS)
@pytest.mark.parametrize("options", ACCEPTED, ids=" ".join)
def test_only_a_real_server_with_an_acceptable_certificate_gets_the_password(
    options: tuple[str, ...],
    kind: str,
    verifiers: dict[tuple[str, ...], PerditionProcess],
    impostors: dict[str, ssl.SSLContext],
    server: ScriptedServer,
) -> None:
    """Each option accepts exactly what its name says; the log says what was wrong."""
    proxy = verifiers[options]
    with client_and_server(server, proxy, f"joe@{server.name}") as (client, real):
        told = gets_password(real, impostors[kind])

        assert told == (kind in ACCEPTED[options]), proxy.evidence()
        if not told:
            failure = "Connection Negotiation Failure: TLS handshake with the real server failed"
            proxy.wait_for_log(f"{client.own_address}->.*: {failure}: .*{IMPOSTORS[kind]}")


@pytest.mark.parametrize(
    ("names", "common_name", "host", "told"),
    [
        (HERE, "x", "localhost", True),
        (HERE, "x", "127.0.0.1", True),
        (["LocalHost"], "x", "localhost", True),
        (["localhost"], "127.0.0.1", "127.0.0.1", False),
        (["127.0.0.1"], "localhost", "localhost", False),
        (["other.example"], "localhost", "localhost", False),
        (["*"], "x", "localhost", False),
        ([], "localhost", "localhost", True),
        ([], "127.0.0.1", "127.0.0.1", True),
        ([], "other.example", "localhost", False),
    ],
)
def test_real_server_must_match_its_certificate(
    names: list[str],
    common_name: str,
    host: str,
    told: bool,
    verifiers: dict[tuple[str, ...], PerditionProcess],
    authority: Authority,
    server: ScriptedServer,
) -> None:
    """By subjectAltName; by the common name only if there is none (RFC 6125)."""
    context = showing(authority.issue(common_name, names))
    with client_and_server(server, verifiers[()], f"joe@{host}:{server.port}") as (_, real):
        assert gets_password(real, context) == told, verifiers[()].evidence()


@pytest.mark.parametrize("given", ["ssl_ca_file", "ssl_ca_path", "ssl_ca_chain_file"])
@pytest.mark.parametrize("trusted", [True, False])
def test_authorities_are_those_configured(
    given: str,
    trusted: bool,
    perditions: Perditions,
    authority: Authority,
    server: ScriptedServer,
    folder: Path,
) -> None:
    """In a file, in a directory, or in the chain file, which overrides both."""
    chosen = authority if trusted else Authority(folder, "other")
    (folder / "path").mkdir()
    (folder / "path" / "ca.pem").write_bytes(chosen.file.read_bytes())
    subprocess.run(["openssl", "rehash", folder / "path"], check=True)
    where = folder / "path" if given == "ssl_ca_path" else chosen.file
    overridden = ("--ssl_ca_file", authority.file) if given == "ssl_ca_chain_file" else ()
    proxy = perditions.start(
        *("imap4", "-M", "", "-s", server.name, "--ssl_mode", "ssl_outgoing"),
        *(f"--{given}", where, *overridden),
    )

    with client_and_server(server, proxy) as (_, real):
        assert gets_password(real, showing(authority.issue("given"))) == trusted


# Plain text that is injected before TLS begins.


def received_after_starttls(proxy: PerditionProcess, tls: ClientTLS, appended: bytes) -> bytes:
    """What a client that logs out at once receives over TLS; `behind` is sent with STARTTLS."""
    commands = PROTOCOLS[proxy.protocol]
    command, answer = commands.starttls
    with RawConnection.to(proxy.address) as client:
        client.read_until(commands.greeting)
        client.send(command + b"\r\n" + appended)
        client.read_until(answer)
        client.start_tls(tls.context, tls.host)
        client.read_until(commands.secured)
        client.send(commands.logout + b"\r\n")
        return client.read_to_end()


@every_protocol
def test_commands_after_starttls_are_discarded(
    protocol: str, shared: SharedPerditions, authority: Authority
) -> None:
    """Plain text that was injected after STARTTLS is not read as TLS data."""
    proxy = shared.start(protocol, "tls_listen")
    tls = tls_of(authority, "starttls")
    credentials = PROTOCOLS[protocol].credentials("mallory", "own")
    injected = b"".join(command + b"\r\n" for command, _ in credentials)

    assert received_after_starttls(proxy, tls, injected) == received_after_starttls(proxy, tls, b"")
    assert not proxy.logged("mallory"), proxy.evidence()


INJECTED = {
    "pop3": b"+OK\r\n+OK injected\r\n",
    "imap4": b"* CAPABILITY IMAP4rev1\r\nperdition OK\r\nperdition OK injected\r\n",
    "managesieve": b'"SASL" "PLAIN"\r\nOK\r\nOK "injected"\r\n',
}
"""Answers that would log a user in if they were read."""

REFUSALS = {"pop3": b"-ERR no\r\n", "imap4": b"perdition NO no\r\n", "managesieve": b'NO "no"\r\n'}


@every_protocol
def test_answers_after_starttls_are_discarded(
    protocol: str, shared: SharedPerditions, server: ScriptedServer, certificate: Certificate
) -> None:
    """Plain text that was injected after the answer to STARTTLS answers no later command."""
    proxy = shared.start(protocol, "tls_outgoing")
    script = SERVER_SCRIPTS[protocol]
    with client_and_server(server, proxy) as (client, real):
        real.send(script.greeting)
        command, answer = script.starttls
        answer_commands(real, [*script.features, (command, answer + INJECTED[protocol])])
        real.start_tls(showing(certificate))
        real.send(script.after_tls)
        command, _ = script.login[-1]
        answer_commands(
            real, [*script.features_after_tls, *script.login[:-1], (command, REFUSALS[protocol])]
        )

        proxy.wait_for_log(
            f"Auth: {client.own_address}->.* server-secure=starttls "
            'status="failed: Re-Authentication Failure"'
        )


def test_untagged_answers_before_tls_do_not_reach_the_client(
    shared: SharedPerditions, server: ScriptedServer, certificate: Certificate
) -> None:
    """A man in the middle cannot send the user a message."""
    proxy = shared.start("imap4", "tls_outgoing")
    script = SERVER_SCRIPTS["imap4"]
    forged = b'* OK [ALERT] forged\r\n* LIST () "/" forged\r\n'
    with client_and_server(server, proxy) as (client, real):
        real.send(script.greeting)
        command, answer = script.starttls
        answer_commands(real, [(command, forged + answer)])
        real.start_tls(showing(certificate))
        answer_commands(real, [*script.features_after_tls, *script.login])

        assert b"forged" not in client.read_until(rb"(?m)^a OK.*\r\n")


def without_starttls(text: bytes) -> bytes:
    """A real server's line without its offer of STARTTLS."""
    for offer in (b"STLS\r\n", b" STARTTLS", b'"STARTTLS"\r\n'):
        text = text.replace(offer, b"")
    return text


@pytest.mark.parametrize(
    ("mode", "status"),
    [
        ("tls_outgoing", 'server-secure=plaintext status="ok"'),
        ("tls_outgoing_force", 'server-secure=plaintext status="failed: TLS not present"'),
    ],
)
@every_protocol
def test_stripped_starttls_offer_gets_no_password(
    protocol: str, mode: str, status: str, shared: SharedPerditions, server: ScriptedServer
) -> None:
    """It is used without TLS where that is allowed, else it gets no password."""
    proxy = shared.start(protocol, mode)
    script = SERVER_SCRIPTS[protocol]
    with client_and_server(server, proxy) as (client, real):
        real.send(without_starttls(script.greeting))
        answer_commands(
            real, [(command, without_starttls(answer)) for command, answer in script.features]
        )
        if mode == "tls_outgoing":
            answer_commands(real, script.login)
        else:
            assert PASSWORD_COMMANDS[protocol] not in real.read_to_end()
        proxy.wait_for_log(f"Auth: {client.own_address}->.* {status}")


@pytest.mark.parametrize("mode", ["tls_outgoing", "tls_outgoing_force"])
@every_protocol
def test_real_server_that_refuses_starttls_gets_no_password(
    protocol: str, mode: str, shared: SharedPerditions, server: ScriptedServer
) -> None:
    """Its NO may be injected."""
    proxy = shared.start(protocol, mode)
    script = SERVER_SCRIPTS[protocol]
    with client_and_server(server, proxy) as (client, real):
        real.send(script.greeting)
        answer_commands(real, [*script.features, (script.starttls[0], REFUSALS[protocol])])

        assert PASSWORD_COMMANDS[protocol] not in real.read_to_end()
        proxy.wait_for_log(
            f"Auth: {client.own_address}->.* server-secure=plaintext "
            'status="failed: Connection Negotiation Failure"'
        )


@pytest.mark.parametrize("mode", ["none", "tls_outgoing", "tls_outgoing_force"])
def test_preauth_is_no_login(mode: str, shared: SharedPerditions, server: ScriptedServer) -> None:
    """A PREAUTH greeting does not bypass TLS and the password."""
    proxy = shared.start("imap4", mode)
    with client_and_server(server, proxy) as (client, real):
        real.send(b"* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] welcome\r\n")

        assert b"LOGIN" not in real.read_to_end()
        proxy.wait_for_log(
            f'Auth: {client.own_address}->.* status="failed: Connection Negotiation Failure"'
        )


# Peers that send something else, or nothing.


@contextmanager
def at_once() -> Iterator[None]:
    """Fail if the block takes longer than SOON."""
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    assert took < AT_ONCE, f"it took {took:.1f} s"


@pytest.mark.parametrize("words", [b"a LOGIN joe secret\r\n", b"GET / HTTP/1.1\r\n\r\n"])
@either_way
def test_plain_text_instead_of_tls_closes_the_connection(
    use: str, words: bytes, shared: SharedPerditions
) -> None:
    """The connection is closed, the log says why, and has none of the data."""
    proxy = shared.start("imap4", {"ssl": "ssl_listen", "starttls": "tls_listen"}[use])
    with RawConnection.to(proxy.address) as client, at_once():
        if use == "starttls":
            client.read_until(PROTOCOLS["imap4"].greeting)
            client.ask(*PROTOCOLS["imap4"].starttls)
        client.send(words)
        client.read_to_end()
        proxy.wait_for_log(
            f"{client.own_address}->.*: TLS handshake with client failed: "
            "the peer does not speak TLS"
        )

    assert not proxy.logged("secret"), proxy.evidence()


def client_hello() -> bytes:
    """A ClientHello that has a byte 10, which would end a line."""
    outgoing = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="localhost"
    )
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@every_protocol
def test_tls_instead_of_plain_text_closes_the_connection(
    protocol: str, shared: SharedPerditions
) -> None:
    """The connection is closed, and the log says why."""
    proxy = shared.start(protocol, "none")
    with RawConnection.to(proxy.address) as client, at_once():
        client.read_until(PROTOCOLS[protocol].greeting)
        client.send(client_hello())
        assert client.read_to_end() == b""
        proxy.wait_for_log(
            f"{client.own_address}->.*: TLS handshake with client failed: "
            "received a TLS handshake, expected plain"
        )


def test_real_server_without_expected_tls_gets_no_password(
    shared: SharedPerditions, server: ScriptedServer
) -> None:
    """It gets no password, and the log says why."""
    proxy = shared.start("imap4", "ssl_outgoing")
    with client_and_server(server, proxy) as (client, real), at_once():
        real.send(SERVER_SCRIPTS["imap4"].greeting)
        assert PASSWORD.encode() not in real.read_to_end()
        proxy.wait_for_log(
            f"{client.own_address}->.*: TLS handshake with the real server failed: "
            "the peer does not speak TLS"
        )


@either_way
def test_real_server_that_never_begins_tls_times_out(
    use: str, shared: SharedPerditions, server: ScriptedServer
) -> None:
    """The login fails after authenticate_timeout."""
    mode = {"ssl": "ssl_outgoing", "starttls": "tls_outgoing"}[use]
    proxy = shared.start("imap4", mode, "--authenticate_timeout", "1")
    script = SERVER_SCRIPTS["imap4"]
    with client_and_server(server, proxy) as (client, real), at_once():
        if use == "starttls":
            real.send(script.greeting)
            answer_commands(real, [script.starttls])
        proxy.wait_for_log(f"{client.own_address}->.*: the real server did not answer in time")
        proxy.wait_for_log(
            f"Auth: {client.own_address}->.* server-secure=plaintext "
            'status="failed: Connection Negotiation Failure"'
        )


@either_way
def test_client_that_never_begins_tls_times_out(use: str, shared: SharedPerditions) -> None:
    """It is closed after authenticate_timeout."""
    mode = {"ssl": "ssl_listen", "starttls": "tls_listen"}[use]
    proxy = shared.start("imap4", mode, "--authenticate_timeout", "1")
    with RawConnection.to(proxy.address) as client, at_once():
        if use == "starttls":
            client.read_until(PROTOCOLS["imap4"].greeting)
            client.ask(*PROTOCOLS["imap4"].starttls)
        client.read_to_end()
        proxy.wait_for_log(f"{client.own_address}->.*: authenticate_timeout \\(1 s\\) exceeded")


@pytest.mark.parametrize("farewell", ["end of file", "reset"])
@pytest.mark.parametrize("said", [0, 100, 10_000])
def test_client_may_disconnect_during_the_handshake(
    said: int, farewell: str, shared: SharedPerditions, authority: Authority
) -> None:
    """Before its first byte, in its ClientHello, or after the server's answer to that."""
    proxy = shared.start("imap4", "ssl_listen")
    hello = client_hello()
    with socket.create_connection(proxy.address) as client:
        own_address = "{}:{}".format(*client.getsockname())
        client.sendall(hello[:said])
        if said > len(hello):
            assert client.recv(1)
        if farewell == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    proxy.wait_for_log(f"Close: {own_address}->")
    proxy.expect_sessions(0)
    assert len(proxy.logged(f"{own_address}->.*: TLS handshake with client failed: ")) == 1
    connect_and_read_greeting(proxy.address, "imap4", tls_of(authority, "ssl")).close()


def test_handshake_in_single_bytes_succeeds_and_delays_no_client(
    shared: SharedPerditions, authority: Authority
) -> None:
    """Other clients of the same worker are served meanwhile."""
    proxy = shared.start("imap4", "ssl_listen")
    tls = tls_of(authority, "ssl")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    slow = tls.context.wrap_bio(incoming, outgoing, server_hostname=tls.host)
    with socket.create_connection(proxy.address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange(action: Callable[[], T]) -> T:
            """Call a function that needs the server's answer, and send its bytes one by one."""
            while True:
                with suppress(ssl.SSLWantReadError):
                    return action()
                for count, byte in enumerate(outgoing.read()):
                    connection.sendall(bytes([byte]))
                    if count % 100 == 0:
                        with at_once():
                            connect_and_read_greeting(proxy.address, "imap4", tls).close()
                incoming.write(connection.recv(65536))

        exchange(slow.do_handshake)
        assert exchange(lambda: slow.read(4)) == b"* OK"


def up_to_tls_1_2() -> SSL.Context:
    """A pyOpenSSL context for versions with renegotiation."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    return context


def test_client_cannot_renegotiate(shared: SharedPerditions, authority: Authority) -> None:
    """It costs a client little and the server much."""
    proxy = shared.start("imap4", "ssl_listen")
    with RawConnection.to(proxy.address) as connection:
        client = SSL.Connection(up_to_tls_1_2(), connection.bare_socket())
        client.set_connect_state()
        client.do_handshake()
        assert client.recv(4096).startswith(b"* OK")

        client.renegotiate()
        with pytest.raises(SSL.Error, match="no renegotiation"):
            client.do_handshake()

    connect_and_read_greeting(proxy.address, "imap4", tls_of(authority, "ssl")).close()


def test_real_server_cannot_renegotiate(
    shared: SharedPerditions, server: ScriptedServer, certificate: Certificate
) -> None:
    """It gets an alert, and cannot make perdition wait."""
    proxy = shared.start("imap4", "ssl_outgoing")
    context = up_to_tls_1_2()
    context.use_certificate_file(str(certificate.certificate))
    context.use_privatekey_file(str(certificate.key))
    with client_and_server(server, proxy) as (client, connection):
        real = SSL.Connection(context, connection.bare_socket())
        real.set_accept_state()
        real.do_handshake()
        real.send(SERVER_SCRIPTS["imap4"].greeting)
        assert b"LOGIN" in real.recv(4096)
        real.send(b"perdition OK [CAPABILITY IMAP4rev1]\r\n")
        client.read_until(rb"a OK.*\r\n")

        real.renegotiate()
        real.do_handshake()
        assert connection.bare_socket().recv(1, socket.MSG_PEEK) == ALERT


# Peers that send much, read late, or send everything at once.

with_tls = pytest.mark.parametrize(
    "sides", [("client",), ("server",), ("client", "server")], ids="+".join
)


def mode_of(sides: tuple[str, ...]) -> str:
    """TLS from the first byte on those sides."""
    names = {"client": "ssl_listen", "server": "ssl_outgoing"}
    return ",".join(names[side] for side in sides)


@with_tls
def test_slow_reader_gets_everything_and_costs_no_memory(
    sides: tuple[str, ...],
    shared: SharedPerditions,
    server: ScriptedServer,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """perdition reads no more until the client does; the log has the exact byte counts."""
    proxy = shared.start("imap4", mode_of(sides))
    tls = tls_of(authority, "ssl") if "client" in sides else None
    data = random.Random(1).randbytes(BIG)
    with client_and_server(server, proxy, tls=tls) as (client, real):
        if "server" in sides:
            real.start_tls(showing(certificate))
        accept_login(real, "imap4")
        client.read_until(rb"a OK.*\r\n")
        [worker] = proxy.workers()
        before = worker.memory()
        for source, sink in ((real, client), (client, real)):
            sender = Thread(target=source.send, args=(data,))
            sender.start()
            sink.wait_for_stall()
            grown = worker.memory() - before
            assert sink.read_exactly(BIG) == data
            sender.join()
            assert grown < 1 << 20, f"the worker has grown by {grown} bytes"

    proxy.wait_for_log(f"Close: {client.own_address}->.* received={BIG} sent={BIG}$")


@with_tls
@every_protocol
def test_data_in_one_record_with_the_login_is_relayed(
    protocol: str,
    sides: tuple[str, ...],
    shared: SharedPerditions,
    server: ScriptedServer,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """Commands after the client's login, and data after the real server's answer."""
    proxy = shared.start(protocol, mode_of(sides))
    tls = tls_of(authority, "ssl") if "client" in sides else None
    behind = BEHIND * 150
    with client_and_server(server, proxy, tls=tls, appended=behind) as (client, real):
        if "server" in sides:
            real.start_tls(showing(certificate))
        script = SERVER_SCRIPTS[protocol]
        command, answer = script.login[-1]
        real.send(script.greeting)
        answer_commands(real, [*script.login[:-1], (command, answer + behind)])

        assert real.read_exactly(len(behind)) == behind
        client.read_until(rb"You are so in.*\r\n")
        assert client.read_exactly(len(behind)) == behind
