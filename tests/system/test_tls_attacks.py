"""Attacks on TLS, by clients, real servers and whoever sits between: none gets anything."""

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

from tests.support import processes
from tests.support.authority import EXPIRED, HERE, NOT_YET_VALID, Authority, self_signed, showing
from tests.support.dovecot import Certificate
from tests.support.folders import public_folder
from tests.support.proxy import Proxy
from tests.support.scripted_server import (
    PARTS,
    PASSWORD,
    ScriptedServer,
    let_in,
    play,
    visited,
)
from tests.support.session import DIALOGUES, TLS, greeted
from tests.support.wire import Wire
from tests.system.conftest import Proxies

T = TypeVar("T")

BIG = 32 << 20
BEHIND = b"x" * 78 + b"\r\n"
ALERT = b"\x15"
AT_ONCE = 2.0
"""Seconds within which nobody has waited for anything."""

PASSWORD_COMMANDS = {"pop3": b"PASS", "imap4": b"LOGIN", "managesieve": b"AUTHENTICATE"}

every_protocol = pytest.mark.parametrize("protocol", DIALOGUES)
either_way = pytest.mark.parametrize("use", ["ssl", "starttls"])


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """Whoever is trusted."""
    with public_folder() as folder:
        yield Authority(folder)


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    """What everybody shows who is honest."""
    return authority.issue()


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    """The real server, whose part each test plays in its own way."""
    with ScriptedServer() as found:
        yield found


class Front:
    """Perditions in front of the scripted server; each is started once for all tests."""

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
        self._all: dict[tuple[str, ...], Proxy] = {}
        self._options = (
            *("-M", "", "-s", server.name, "--workers", "1", "--ssl_ca_file", authority.file),
            *("--ssl_cert_file", certificate.certificate, "--ssl_key_file", certificate.key),
        )

    def start(self, protocol: str, mode: str, *options: str) -> Proxy:
        """The perdition that uses TLS in that way."""
        key = (protocol, mode, *options)
        if key not in self._all:
            proxy = Proxy(protocol, self._folder, *self._options, "--ssl_mode", mode, *options)
            self._all[key] = self._stack.enter_context(proxy)
        self._latest = self._all[key]
        return self._latest

    def evidence(self) -> str:
        """What the latest of them said and logged."""
        return self._latest.evidence()


@pytest.fixture(scope="module")
def front(
    server: ScriptedServer, authority: Authority, certificate: Certificate
) -> Iterator[Front]:
    """Perdition, between the tests' clients and the tests' real server."""
    with public_folder() as folder, ExitStack() as stack:
        yield Front(folder, stack, server, authority, certificate)


def tls_of(authority: Authority, use: str) -> TLS:
    """TLS of a client that trusts the authority."""
    return TLS(use, authority.trusted())


# Impostors: a real server that cannot show that it is who was meant.

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
    "for another name": "the certificate is not for 127.0.0.1",
}
"""Certificates of real servers, and what the log says where one is not accepted."""

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
"""Which of them each option has perdition accept."""


@pytest.fixture(scope="module")
def impostors(authority: Authority) -> Iterator[dict[str, ssl.SSLContext]]:
    """TLS of the real servers that show these certificates."""
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
def judges(authority: Authority) -> Iterator[dict[tuple[str, ...], Proxy]]:
    """A perdition with each set of options, whose clients choose the real server."""
    with public_folder() as folder, ExitStack() as stack:
        common = ("-M", "", "-c", "--workers", "1", "--ssl_ca_file", authority.file)
        mode = ("--ssl_mode", "ssl_outgoing")
        yield {
            options: stack.enter_context(Proxy("imap4", folder, *common, *mode, *options))
            for options in ACCEPTED
        }


def hears_password(real: Wire, context: ssl.SSLContext) -> bool:
    """Whether perdition trusts a real server so much that it tells it the password."""
    with suppress(ssl.SSLError, ConnectionError):
        tls = real.start_tls(context)
        tls.sendall(PARTS["imap4"].greeting)
        return PASSWORD.encode() in tls.recv(4096)
    return False


@pytest.mark.parametrize("kind", IMPOSTORS)
@pytest.mark.parametrize("options", ACCEPTED, ids=" ".join)
def test_only_a_real_server_with_an_acceptable_certificate_hears_the_password(
    options: tuple[str, ...],
    kind: str,
    judges: dict[tuple[str, ...], Proxy],
    impostors: dict[str, ssl.SSLContext],
    server: ScriptedServer,
) -> None:
    """Each option accepts what its name says and nothing else; the log tells what was wrong."""
    proxy = judges[options]
    with visited(server, proxy, f"joe@{server.name}") as (client, real):
        told = hears_password(real, impostors[kind])

        assert told == (kind in ACCEPTED[options]), proxy.evidence()
        if not told:
            failure = "Connection Negotiation Failure: no TLS with the real server"
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
def test_real_server_must_be_the_one_that_was_meant(
    names: list[str],
    common_name: str,
    host: str,
    told: bool,
    judges: dict[tuple[str, ...], Proxy],
    authority: Authority,
    server: ScriptedServer,
) -> None:
    """By subjectAltName, and by the common name only where there is none (RFC 6125)."""
    context = showing(authority.issue(common_name, names))
    with visited(server, judges[()], f"joe@{host}:{server.port}") as (_, real):
        assert hears_password(real, context) == told, judges[()].evidence()


@pytest.mark.parametrize("given", ["ssl_ca_file", "ssl_ca_path", "ssl_ca_chain_file"])
@pytest.mark.parametrize("trusted", [True, False])
def test_authorities_are_those_that_are_given(
    given: str,
    trusted: bool,
    proxies: Proxies,
    authority: Authority,
    server: ScriptedServer,
    folder: Path,
) -> None:
    """In a file, in a directory, or in the chain file, which goes before both."""
    chosen = authority if trusted else Authority(folder, "other")
    (folder / "path").mkdir()
    (folder / "path" / "ca.pem").write_bytes(chosen.file.read_bytes())
    subprocess.run(["openssl", "rehash", folder / "path"], check=True)
    where = folder / "path" if given == "ssl_ca_path" else chosen.file
    overridden = ("--ssl_ca_file", authority.file) if given == "ssl_ca_chain_file" else ()
    proxy = proxies.start(
        *("imap4", "-M", "", "-s", server.name, "--ssl_mode", "ssl_outgoing"),
        *(f"--{given}", where, *overridden),
    )

    with visited(server, proxy) as (_, real):
        assert hears_password(real, showing(authority.issue("given"))) == trusted


# Words put into somebody's mouth before TLS begins.


def heard_after_starttls(proxy: Proxy, tls: TLS, behind: bytes) -> bytes:
    """All that a client hears by TLS when it logs out at once; `behind` goes with STARTTLS."""
    dialogue = DIALOGUES[proxy.protocol]
    command, answer = dialogue.starttls
    with Wire.to(proxy.address) as client:
        client.read_until(dialogue.greeting)
        client.send(command + b"\r\n" + behind)
        client.read_until(answer)
        client.start_tls(tls.context, tls.host)
        client.read_until(dialogue.secured)
        client.send(dialogue.farewell + b"\r\n")
        return client.read_to_end()


@every_protocol
def test_commands_behind_starttls_are_thrown_away(
    protocol: str, front: Front, authority: Authority
) -> None:
    """What somebody adds to the client's plain text is no part of what it says by TLS."""
    proxy = front.start(protocol, "tls_listen")
    tls = tls_of(authority, "starttls")
    credentials = DIALOGUES[protocol].credentials("mallory", "own")
    injected = b"".join(command + b"\r\n" for command, _ in credentials)

    assert heard_after_starttls(proxy, tls, injected) == heard_after_starttls(proxy, tls, b"")
    assert not proxy.logged("mallory"), proxy.evidence()


INJECTED = {
    "pop3": b"+OK\r\n+OK injected\r\n",
    "imap4": b"* CAPABILITY IMAP4rev1\r\nperdition OK\r\nperdition OK injected\r\n",
    "managesieve": b'"SASL" "PLAIN"\r\nOK\r\nOK "injected"\r\n',
}
"""What would let a user in, if it counted."""

REFUSALS = {"pop3": b"-ERR no\r\n", "imap4": b"perdition NO no\r\n", "managesieve": b'NO "no"\r\n'}


@every_protocol
def test_answers_behind_starttls_are_thrown_away(
    protocol: str, front: Front, server: ScriptedServer, certificate: Certificate
) -> None:
    """What somebody adds to the real server's plain text is no answer to what is asked by TLS."""
    proxy = front.start(protocol, "tls_outgoing")
    part = PARTS[protocol]
    with visited(server, proxy) as (client, real):
        real.send(part.greeting)
        command, answer = part.starttls
        play(real, [*part.features, (command, answer + INJECTED[protocol])])
        real.start_tls(showing(certificate))
        real.send(part.unasked)
        command, _ = part.login[-1]
        play(real, [*part.new_features, *part.login[:-1], (command, REFUSALS[protocol])])

        proxy.wait_for_log(
            f"Auth: {client.own_address}->.* server-secure=starttls "
            'status="failed: Re-Authentication Failure"'
        )


def test_untagged_answers_before_tls_do_not_reach_the_client(
    front: Front, server: ScriptedServer, certificate: Certificate
) -> None:
    """Who sits between cannot tell the user anything."""
    proxy = front.start("imap4", "tls_outgoing")
    part = PARTS["imap4"]
    forged = b'* OK [ALERT] forged\r\n* LIST () "/" forged\r\n'
    with visited(server, proxy) as (client, real):
        real.send(part.greeting)
        command, answer = part.starttls
        play(real, [(command, forged + answer)])
        real.start_tls(showing(certificate))
        play(real, [*part.new_features, *part.login])

        assert b"forged" not in client.read_until(rb"(?m)^a OK.*\r\n")


def without_starttls(text: bytes) -> bytes:
    """What a real server says, less its offer of TLS."""
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
def test_real_server_whose_offer_of_tls_is_taken_away(
    protocol: str, mode: str, status: str, front: Front, server: ScriptedServer
) -> None:
    """It is used without TLS where the site allows that, else it hears no password."""
    proxy = front.start(protocol, mode)
    part = PARTS[protocol]
    with visited(server, proxy) as (client, real):
        real.send(without_starttls(part.greeting))
        play(real, [(command, without_starttls(answer)) for command, answer in part.features])
        if mode == "tls_outgoing":
            play(real, part.login)
        else:
            assert PASSWORD_COMMANDS[protocol] not in real.read_to_end()
        proxy.wait_for_log(f"Auth: {client.own_address}->.* {status}")


@pytest.mark.parametrize("mode", ["tls_outgoing", "tls_outgoing_force"])
@every_protocol
def test_real_server_that_refuses_tls_after_all_hears_no_password(
    protocol: str, mode: str, front: Front, server: ScriptedServer
) -> None:
    """Its NO may be somebody else's."""
    proxy = front.start(protocol, mode)
    part = PARTS[protocol]
    with visited(server, proxy) as (client, real):
        real.send(part.greeting)
        play(real, [*part.features, (part.starttls[0], REFUSALS[protocol])])

        assert PASSWORD_COMMANDS[protocol] not in real.read_to_end()
        proxy.wait_for_log(
            f"Auth: {client.own_address}->.* server-secure=plaintext "
            'status="failed: Connection Negotiation Failure"'
        )


@pytest.mark.parametrize("mode", ["none", "tls_outgoing", "tls_outgoing_force"])
def test_preauth_lets_nobody_in(mode: str, front: Front, server: ScriptedServer) -> None:
    """A greeting that says the user is known already is no way around TLS and password."""
    proxy = front.start("imap4", mode)
    with visited(server, proxy) as (client, real):
        real.send(b"* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] welcome\r\n")

        assert b"LOGIN" not in real.read_to_end()
        proxy.wait_for_log(
            f'Auth: {client.own_address}->.* status="failed: Connection Negotiation Failure"'
        )


# Peers that speak another language, or none.


@contextmanager
def at_once() -> Iterator[None]:
    """Whatever happens within must not keep anybody waiting."""
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    assert took < AT_ONCE, f"it took {took:.1f} s"


@pytest.mark.parametrize("words", [b"a LOGIN joe secret\r\n", b"GET / HTTP/1.1\r\n\r\n"])
@either_way
def test_plain_text_where_tls_must_begin(use: str, words: bytes, front: Front) -> None:
    """The connection is closed, the log says why, and has nothing of what was said."""
    proxy = front.start("imap4", {"ssl": "ssl_listen", "starttls": "tls_listen"}[use])
    with Wire.to(proxy.address) as client, at_once():
        if use == "starttls":
            client.read_until(DIALOGUES["imap4"].greeting)
            client.ask(*DIALOGUES["imap4"].starttls)
        client.send(words)
        client.read_to_end()
        proxy.wait_for_log(
            f"{client.own_address}->.*: no TLS with the client: the peer does not speak TLS"
        )

    assert not proxy.logged("secret"), proxy.evidence()


def client_hello() -> bytes:
    """What a client begins TLS with; a 10 is always in it, where a line might end."""
    outgoing = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="localhost"
    )
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@every_protocol
def test_tls_where_plain_text_is_expected(protocol: str, front: Front) -> None:
    """The connection is closed, and the log says why."""
    proxy = front.start(protocol, "none")
    with Wire.to(proxy.address) as client, at_once():
        client.read_until(DIALOGUES[protocol].greeting)
        client.send(client_hello())
        assert client.read_to_end() == b""
        proxy.wait_for_log(
            f"{client.own_address}->.*: no TLS with the client: the peer speaks TLS where plain"
        )


def test_real_server_that_speaks_plain_text_where_tls_must_begin(
    front: Front, server: ScriptedServer
) -> None:
    """It hears no password, and the log says why."""
    proxy = front.start("imap4", "ssl_outgoing")
    with visited(server, proxy) as (client, real), at_once():
        real.send(PARTS["imap4"].greeting)
        assert PASSWORD.encode() not in real.read_to_end()
        proxy.wait_for_log(
            f"{client.own_address}->.*: no TLS with the real server: the peer does not speak TLS"
        )


@either_way
def test_real_server_that_never_begins_tls(use: str, front: Front, server: ScriptedServer) -> None:
    """The login fails after authenticate_timeout."""
    mode = {"ssl": "ssl_outgoing", "starttls": "tls_outgoing"}[use]
    proxy = front.start("imap4", mode, "--authenticate_timeout", "1")
    part = PARTS["imap4"]
    with visited(server, proxy) as (client, real), at_once():
        if use == "starttls":
            real.send(part.greeting)
            play(real, [part.starttls])
        proxy.wait_for_log(f"{client.own_address}->.*: the real server did not answer in time")
        proxy.wait_for_log(
            f"Auth: {client.own_address}->.* server-secure=plaintext "
            'status="failed: Connection Negotiation Failure"'
        )


@either_way
def test_client_that_never_begins_tls(use: str, front: Front) -> None:
    """It is closed after authenticate_timeout."""
    mode = {"ssl": "ssl_listen", "starttls": "tls_listen"}[use]
    proxy = front.start("imap4", mode, "--authenticate_timeout", "1")
    with Wire.to(proxy.address) as client, at_once():
        if use == "starttls":
            client.read_until(DIALOGUES["imap4"].greeting)
            client.ask(*DIALOGUES["imap4"].starttls)
        client.read_to_end()
        proxy.wait_for_log(f"{client.own_address}->.*: timeout before the login")


@pytest.mark.parametrize("farewell", ["end of file", "reset"])
@pytest.mark.parametrize("said", [0, 100, 10_000])
def test_client_that_vanishes_in_the_handshake(
    said: int, farewell: str, front: Front, authority: Authority
) -> None:
    """Before its first octet, amid its ClientHello, or when it has read our answer to that."""
    proxy = front.start("imap4", "ssl_listen")
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
    assert len(proxy.logged(f"{own_address}->.*: no TLS with the client: ")) == 1
    greeted(proxy.address, "imap4", tls_of(authority, "ssl")).close()


def test_handshake_in_single_octets_succeeds_and_slows_nobody(
    front: Front, authority: Authority
) -> None:
    """Others of the same worker come and go meanwhile."""
    proxy = front.start("imap4", "ssl_listen")
    tls = tls_of(authority, "ssl")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    slow = tls.context.wrap_bio(incoming, outgoing, server_hostname=tls.host)
    with socket.create_connection(proxy.address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def hear(action: Callable[[], T]) -> T:
            """Do something that needs the server's answer, and say in octets what it takes."""
            while True:
                with suppress(ssl.SSLWantReadError):
                    return action()
                for count, octet in enumerate(outgoing.read()):
                    connection.sendall(bytes([octet]))
                    if count % 100 == 0:
                        with at_once():
                            greeted(proxy.address, "imap4", tls).close()
                incoming.write(connection.recv(65536))

        hear(slow.do_handshake)
        assert hear(lambda: slow.read(4)) == b"* OK"


def up_to_tls_1_2() -> SSL.Context:
    """TLS of a library that can ask for a renegotiation, in versions that have one."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    return context


def test_client_cannot_renegotiate(front: Front, authority: Authority) -> None:
    """It costs a client nothing and us much, again and again."""
    proxy = front.start("imap4", "ssl_listen")
    with Wire.to(proxy.address) as wire:
        client = SSL.Connection(up_to_tls_1_2(), wire.bare_socket())
        client.set_connect_state()
        client.do_handshake()
        assert client.recv(4096).startswith(b"* OK")

        client.renegotiate()
        with pytest.raises(SSL.Error, match="no renegotiation"):
            client.do_handshake()

    greeted(proxy.address, "imap4", tls_of(authority, "ssl")).close()


def test_real_server_cannot_renegotiate(
    front: Front, server: ScriptedServer, certificate: Certificate
) -> None:
    """It is answered by an alert, where it could have us wait for the rest."""
    proxy = front.start("imap4", "ssl_outgoing")
    context = up_to_tls_1_2()
    context.use_certificate_file(str(certificate.certificate))
    context.use_privatekey_file(str(certificate.key))
    with visited(server, proxy) as (client, wire):
        real = SSL.Connection(context, wire.bare_socket())
        real.set_accept_state()
        real.do_handshake()
        real.send(PARTS["imap4"].greeting)
        assert b"LOGIN" in real.recv(4096)
        real.send(b"perdition OK\r\n")
        client.read_until(rb"a OK.*\r\n")

        real.renegotiate()
        real.do_handshake()
        assert wire.bare_socket().recv(1, socket.MSG_PEEK) == ALERT


# Peers that send much, read late, or say everything at once.

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
    front: Front,
    server: ScriptedServer,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """Nothing more is read for it until it reads; the log tells the exact count of both ways."""
    proxy = front.start("imap4", mode_of(sides))
    tls = tls_of(authority, "ssl") if "client" in sides else None
    data = random.Random(1).randbytes(BIG)
    with visited(server, proxy, tls=tls) as (client, real):
        if "server" in sides:
            real.start_tls(showing(certificate))
        let_in(real, "imap4")
        client.read_until(rb"a OK.*\r\n")
        [worker] = proxy.workers()
        before = processes.memory(worker.pid)
        for source, sink in ((real, client), (client, real)):
            sender = Thread(target=source.send, args=(data,))
            sender.start()
            sink.wait_for_stall()
            grown = processes.memory(worker.pid) - before
            assert sink.read_exactly(BIG) == data
            sender.join()
            assert grown < 1 << 20, f"the worker has grown by {grown} octets"

    proxy.wait_for_log(f"Close: {client.own_address}->.* received={BIG} sent={BIG}$")


@with_tls
@every_protocol
def test_what_comes_in_one_record_with_the_login_is_not_left_behind(
    protocol: str,
    sides: tuple[str, ...],
    front: Front,
    server: ScriptedServer,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """Commands behind the client's login, and what the real server adds to its answer."""
    proxy = front.start(protocol, mode_of(sides))
    tls = tls_of(authority, "ssl") if "client" in sides else None
    behind = BEHIND * 150
    with visited(server, proxy, tls=tls, behind=behind) as (client, real):
        if "server" in sides:
            real.start_tls(showing(certificate))
        part = PARTS[protocol]
        command, answer = part.login[-1]
        real.send(part.greeting)
        play(real, [*part.login[:-1], (command, answer + behind)])

        assert real.read_exactly(len(behind)) == behind
        client.read_until(rb"You are so in.*\r\n")
        assert client.read_exactly(len(behind)) == behind
