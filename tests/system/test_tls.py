"""TLS with clients and with real servers, as sites set it up and clients use it."""

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.support.authority import Authority, rsa_key, showing
from tests.support.clients import CLIENTS, Login
from tests.support.dovecot import Certificate, Dovecot
from tests.support.folders import public_folder
from tests.support.proxy import Proxy, popmap
from tests.support.scripted_server import (
    PARTS,
    ScriptedServer,
    go_on_with_tls,
    let_in,
    play,
    visited,
)
from tests.support.session import DIALOGUES, TLS, greeted
from tests.support.sieve import SieveClient
from tests.support.wait import DEADLINE
from tests.support.wire import Wire
from tests.system.conftest import PASSWORDS, Proxies

WORDS = {"joe": "windward", "ann": "leeward"}
"""One of these is in whatever a user reads, and in nothing that the other one reads."""

LISTENING = {"ssl": "ssl_listen", "starttls": "tls_listen"}
OUTGOING = {"plaintext": "none", "starttls": "tls_outgoing_force", "ssl": "ssl_outgoing"}
"""The mode that brings what the log calls so."""

REACHED = {
    (protocol, outgoing)
    for protocol in DIALOGUES
    for outgoing in OUTGOING
    if (protocol, outgoing) != ("managesieve", "ssl")
}
"""The ways to a Dovecot: its ManageSieve has no port for TLS, but STARTTLS."""

every_protocol = pytest.mark.parametrize("protocol", DIALOGUES)


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """Whoever vouches for perdition and for the real servers."""
    with public_folder() as folder:
        yield Authority(folder)


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    """What perdition shows its clients, and real servers show perdition."""
    return authority.issue()


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, TLS]:
    """Each way in which a client that trusts the authority can use TLS."""
    return {use: TLS(use, authority.trusted()) for use in LISTENING}


@pytest.fixture(scope="module")
def homes(certificate: Certificate) -> Iterator[dict[str, Dovecot]]:
    """Each user's own Dovecot with TLS, with a message and a script there."""
    if reason := Dovecot.missing():
        pytest.skip(reason)
    with ExitStack() as stack:
        found = {}
        for user, word in WORDS.items():
            folder = stack.enter_context(public_folder())
            users = {user: PASSWORDS[user]}
            found[user] = server = stack.enter_context(Dovecot(folder, users, certificate))
            server.deliver(user, f"Subject: {word}\r\n\r\nSails.\r\n".encode())
            address = ("127.0.0.1", server.ports["managesieve"])
            scripts = SieveClient(socket.create_connection(address))
            scripts.login(user, PASSWORDS[user])
            scripts.putscript(word, b"keep;\r\n")
            scripts.logout()
        yield found


@pytest.fixture(scope="module")
def in_front(
    homes: dict[str, Dovecot], authority: Authority, certificate: Certificate
) -> Iterator[dict[tuple[str, str, str], Proxy]]:
    """A perdition for each protocol and each way to use TLS on either side."""
    with public_folder() as folder, ExitStack() as stack:
        found = {}
        for protocol, outgoing in sorted(REACHED):
            port = protocol + ("s" if outgoing == "ssl" else "")
            servers = {user: home.server(port) for user, home in homes.items()}
            file = popmap(folder / f"{protocol}.{outgoing}.db", servers)
            for use, listening in LISTENING.items():
                options = (
                    *("-M", "gdbm", "-m", file, "--workers", "1"),
                    *("--ssl_mode", f"{listening},{OUTGOING[outgoing]}"),
                    *("--ssl_ca_file", authority.file, *shown(certificate)),
                )
                proxy = stack.enter_context(Proxy(protocol, folder, *options))
                found[protocol, use, outgoing] = proxy
        yield found


def shown(*certificates: Certificate) -> tuple[str | Path, ...]:
    """The options that have clients shown these certificates."""
    return tuple(
        option
        for each in certificates
        for option in ("--ssl_cert_file", each.certificate, "--ssl_key_file", each.key)
    )


@pytest.mark.parametrize("user", WORDS)
@pytest.mark.parametrize(
    ("name", "use", "outgoing"),
    [
        (name, use, outgoing)
        for name, client in CLIENTS.items()
        for use in client.tls
        for outgoing in OUTGOING
        if (client.protocol, outgoing) in REACHED
    ],
)
def test_user_reads_their_own(
    name: str,
    use: str,
    outgoing: str,
    user: str,
    in_front: dict[tuple[str, str, str], Proxy],
    authority: Authority,
    folder: Path,
) -> None:
    """A real client trusts perdition, perdition the user's Dovecot; the log tells of both."""
    client = CLIENTS[name]
    if reason := client.missing():
        pytest.skip(reason)
    proxy = in_front[client.protocol, use, outgoing]

    text = client.read(Login(proxy.port, user, PASSWORDS[user], use, authority.file), folder)

    assert [word for word in WORDS.values() if word in text] == [WORDS[user]], text
    proxy.wait_for_log(
        rf'Auth: .* client-secure={use} .* authentication_id="{user}" .* '
        f"server-secure={outgoing} status=ok"
    )


@pytest.mark.parametrize("use", LISTENING)
@every_protocol
def test_openssl_client_logs_in(
    protocol: str,
    use: str,
    in_front: dict[tuple[str, str, str], Proxy],
    authority: Authority,
) -> None:
    """openssl s_client, by which operators look at servers, gets through to the real server."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    proxy = in_front[protocol, use, "plaintext"]
    dialogue = DIALOGUES[protocol]
    commands = [command for command, _ in dialogue.credentials("joe", PASSWORDS["joe"])]
    service = {"pop3": "pop3", "imap4": "imap", "managesieve": "sieve"}[protocol]

    done = subprocess.run(
        [
            *("openssl", "s_client", "-quiet", "-crlf", "-connect", f"localhost:{proxy.port}"),
            *("-CAfile", authority.file, "-verify_return_error", "-verify_hostname", "localhost"),
            *(("-starttls", service) if use == "starttls" else ()),
        ],
        input=b"\n".join([*commands, dialogue.question[0], dialogue.farewell, b""]),
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )

    told = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, told
    assert re.search(dialogue.question[1], done.stdout), told


FEATURES = {
    "pop3": (b"CAPA", rb"(?m)^\.\r\n", b"UIDL USER"),
    "imap4": (b"c CAPABILITY", rb"(?m)^c OK", b"* CAPABILITY IMAP4 IMAP4REV1"),
    "managesieve": (b"CAPABILITY", rb"(?m)^OK", b'"VERSION" "1.0"'),
}
"""How a client asks what there is, the end of the answer, and what is always in it."""

ADVICE = {"pop3": {"STLS"}, "imap4": {"STARTTLS", "LOGINDISABLED"}, "managesieve": {"STARTTLS"}}
"""What perdition may add to it."""


def advice(wire: Wire, protocol: str) -> set[str]:
    """What perdition advises a client to do, when that one asks."""
    question, end, always = FEATURES[protocol]
    words = re.findall(r"[\w.]+", wire.ask(question, end).decode())
    missing = set(re.findall(r"[\w.]+", always.decode())) - set(words)
    assert not missing, f"{missing} not in {words}"
    return ADVICE[protocol].intersection(words)


@pytest.mark.parametrize(
    ("mode", "before", "use"),
    [
        ("none", set(), None),
        ("ssl_listen", None, "ssl"),
        ("tls_listen", {"STLS", "STARTTLS"}, "starttls"),
        ("tls_listen_force", {"STLS", "STARTTLS", "LOGINDISABLED"}, "starttls"),
    ],
)
@every_protocol
def test_features_tell_what_is_possible_now(
    protocol: str,
    mode: str,
    before: set[str] | None,
    use: str | None,
    proxies: Proxies,
    certificate: Certificate,
    tls: dict[str, TLS],
) -> None:
    """STARTTLS, STLS and LOGINDISABLED are there before the handshake, and gone after it."""
    proxy = proxies.start(protocol, "-M", "", "--ssl_mode", mode, *shown(certificate))

    if before is not None:
        with greeted(proxy.address, protocol) as client:
            assert advice(client, protocol) == before & ADVICE[protocol]
    if use:
        with greeted(proxy.address, protocol, tls[use]) as client:
            assert advice(client, protocol) == set()


def test_no_password_is_accepted_before_tls_where_tls_is_forced(
    proxies: Proxies, certificate: Certificate, tls: dict[str, TLS]
) -> None:
    """It is refused in clear words, the real server hears nothing of it, and TLS mends it."""
    with ScriptedServer() as server, ExitStack() as stack:
        clients = []
        for protocol, dialogue in DIALOGUES.items():
            options = ("-M", "", "-s", server.name, "--ssl_mode", "tls_listen_force")
            proxy = proxies.start(protocol, *options, *shown(certificate))
            client = stack.enter_context(greeted(proxy.address, protocol))
            for command, _ in dialogue.credentials("joe", PASSWORDS["joe"]):
                client.send(command + b"\r\n")
            clients.append((proxy, client))

        for proxy, client in clients:
            client.read_until(rb"(?m)^(a NO \[PRIVACYREQUIRED\] |-ERR |NO .*)TLS not present")
            proxy.wait_for_log('client-secure=plaintext .* status="failed: TLS not present"')

        with visited(server, proxies.of("imap4"), tls=tls["starttls"]) as (client, real):
            let_in(real, "imap4")
            client.read_until(rb"(?m)^a OK")


@pytest.mark.parametrize("service", ["POP3S", "IMAP4S"])
def test_services_for_tls_need_no_mode(
    service: str, proxies: Proxies, authority: Authority, certificate: Certificate
) -> None:
    """POP3S and IMAP4S use TLS from the first byte on both sides."""
    protocol = service[:-1].lower()
    options = ("-M", "", "--protocol", service, "--ssl_ca_file", authority.file)
    with ScriptedServer() as server:
        proxy = proxies.start(protocol, *options, "-s", server.name, *shown(certificate))
        tls = TLS("ssl", authority.trusted())
        with visited(server, proxy, tls=tls) as (client, real):
            real.start_tls(showing(certificate))
            let_in(real, protocol)
            client.read_until(rb"You are so in")

    proxy.wait_for_log(f"client-secure=ssl .* protocol={service} server-secure=ssl status=ok")


@contextmanager
def handshake(
    proxy: Proxy, context: ssl.SSLContext, host: str = "localhost"
) -> Iterator[ssl.SSLSocket]:
    """A client's TLS with perdition, as far as to the end of the handshake.

    With TLS 1.3 that is before perdition has judged the client; `greeting` tells.
    """
    with Wire.to(proxy.address) as wire:
        yield wire.start_tls(context, host)


def holder(tls: ssl.SSLSocket) -> str:
    """The common name of whom the peer shows a certificate for."""
    shown = tls.getpeercert(binary_form=True)
    assert shown, "no certificate is shown"
    subject = x509.load_der_x509_certificate(shown).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


@pytest.fixture(scope="module")
def with_two_names(authority: Authority) -> Iterator[Proxy]:
    """A perdition that has a certificate for mail, and one for pop and whatever is wild."""
    mail = authority.issue("mail", ["mail.example"])
    pop = authority.issue("pop", ["pop.example", "*.wild.example"])
    options = ("-M", "", "--ssl_mode", "ssl_listen", *shown(mail, pop))
    with public_folder() as folder, Proxy("imap4", folder, *options) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("mail.example", "mail"),
        ("MAIL.example", "mail"),
        ("pop.example", "pop"),
        ("any.wild.example", "pop"),
        ("two.any.wild.example", "mail"),
        ("unknown.example", "mail"),
        ("127.0.0.1", "mail"),
    ],
)
def test_client_is_shown_the_certificate_for_the_name_it_asks_for(
    asked: str, expected: str, with_two_names: Proxy, authority: Authority
) -> None:
    """The first one is for names that none is for, and for clients that tell no name."""
    context = authority.trusted()
    context.check_hostname = False

    with handshake(with_two_names, context, asked) as tls:
        assert holder(tls) == expected


@pytest.mark.parametrize("chain", ["in ssl_cert_file", "in ssl_ca_chain_file"])
def test_client_is_shown_who_vouches_for_the_certificate(
    chain: str, proxies: Proxies, authority: Authority, folder: Path
) -> None:
    """A client that knows only the root can verify it."""
    middle = Authority(folder, "middle", authority)
    alone = chain != "in ssl_cert_file"
    options = ("--ssl_ca_chain_file", middle.file) if alone else ()
    proxy = proxies.start(
        *("imap4", "-M", "", "--ssl_mode", "ssl_listen", *options),
        *shown(middle.issue(chain=not alone)),
    )

    with handshake(proxy, authority.trusted()) as tls:
        assert holder(tls) == "localhost"


UP_TO_1_2 = {"maximum_version": ssl.TLSVersion.TLSv1_2}
FROM_1_3 = {"minimum_version": ssl.TLSVersion.TLSv1_3}

every_limit = pytest.mark.parametrize(
    ("limit", "version", "peer", "spoken"),
    [
        ("min", "tlsv1", {}, "TLSv1.3"),
        ("min", "tlsv1.2", UP_TO_1_2, "TLSv1.2"),
        ("min", "tlsv1.3", {}, "TLSv1.3"),
        ("min", "tlsv1.3", UP_TO_1_2, None),
        ("max", "tlsv1.3", {}, "TLSv1.3"),
        ("max", "tlsv1.2", {}, "TLSv1.2"),
        ("max", "tlsv1.2", FROM_1_3, None),
    ],
)
"""Perdition's limit, what its peer speaks, and what they then speak, if they understand each
other."""


def agreed(wire: Wire, context: ssl.SSLContext, host: str | None = None) -> str | None:
    """The version of TLS that is agreed upon, None if there is none."""
    try:
        return wire.start_tls(context, host).version()
    except ssl.SSLError:
        return None


@every_limit
def test_versions_with_clients(
    limit: str,
    version: str,
    peer: dict[str, ssl.TLSVersion],
    spoken: str | None,
    proxies: Proxies,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """ssl_listen_min_proto_version and ssl_listen_max_proto_version."""
    option = (f"--ssl_listen_{limit}_proto_version", version)
    proxy = proxies.start(
        "imap4", "-M", "", "--ssl_mode", "ssl_listen", *option, *shown(certificate)
    )
    context = authority.trusted()
    for name, value in peer.items():
        setattr(context, name, value)

    with Wire.to(proxy.address) as wire:
        assert agreed(wire, context, "localhost") == spoken
    if not spoken:
        proxy.wait_for_log("no TLS with the client: (unsupported protocol|.*version)")


@every_limit
def test_versions_with_real_servers(
    limit: str,
    version: str,
    peer: dict[str, ssl.TLSVersion],
    spoken: str | None,
    proxies: Proxies,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """ssl_outgoing_min_proto_version and ssl_outgoing_max_proto_version."""
    option = (f"--ssl_outgoing_{limit}_proto_version", version)
    trust = ("--ssl_ca_file", authority.file)
    context = showing(certificate)
    for name, value in peer.items():
        setattr(context, name, value)
    with ScriptedServer() as server:
        target = ("-M", "", "-s", server.name, "--ssl_mode", "ssl_outgoing")
        proxy = proxies.start("imap4", *target, *option, *trust)

        with visited(server, proxy) as (_, real):
            assert agreed(real, context) == spoken
        if not spoken:
            proxy.wait_for_log("no TLS with the real server: .*version")


WEAK, STRONG = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"


@pytest.mark.parametrize(
    ("options", "wanted", "chosen"),
    [
        (("--ssl_listen_ciphers", STRONG), f"{WEAK}:{STRONG}", STRONG),
        (("--ssl_listen_ciphers", f"{STRONG}:{WEAK}"), f"{WEAK}:{STRONG}", STRONG),
        (
            ("--ssl_listen_ciphers", f"{STRONG}:{WEAK}", "--ssl_no_cipher_server_preference"),
            f"{WEAK}:{STRONG}",
            WEAK,
        ),
    ],
    ids=["only one allowed", "perdition prefers", "client prefers"],
)
def test_cipher_with_clients(
    options: tuple[str, ...],
    wanted: str,
    chosen: str,
    proxies: Proxies,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """ssl_listen_ciphers are allowed, and their order counts unless the client's is to."""
    mode = ("--ssl_mode", "ssl_listen", "--ssl_listen_max_proto_version", "tlsv1.2")
    proxy = proxies.start("imap4", "-M", "", *mode, *options, *shown(certificate))
    context = authority.trusted()
    context.set_ciphers(wanted)

    with handshake(proxy, context) as tls:
        assert (tls.cipher() or "no cipher")[0] == chosen


def test_cipher_with_real_servers(
    proxies: Proxies, authority: Authority, certificate: Certificate
) -> None:
    """Only ssl_outgoing_ciphers are offered, whatever the real server would like more."""
    context = showing(certificate)
    context.set_ciphers(f"{WEAK}:{STRONG}")
    with ScriptedServer() as server:
        proxy = proxies.start(
            *("imap4", "-M", "", "-s", server.name, "--ssl_mode", "ssl_outgoing"),
            *("--ssl_outgoing_ciphers", STRONG, "--ssl_outgoing_max_proto_version", "tlsv1.2"),
            *("--ssl_ca_file", authority.file),
        )
        with visited(server, proxy) as (_, real):
            tls = real.start_tls(context)
            assert (tls.cipher() or "no cipher")[0] == STRONG


@pytest.mark.parametrize("place", ["ssl_dh_params_file", "ssl_cert_file"])
def test_diffie_hellman_parameters_are_the_sites_own(
    place: str, proxies: Proxies, authority: Authority, folder: Path
) -> None:
    """They come from a file of their own, or stand with the certificate."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    own = authority.issue("rsa", key=rsa_key())
    group = ("-algorithm", "DH", "-pkeyopt", "group:ffdhe3072")
    made = subprocess.check_output(["openssl", "genpkey", "-genparam", *group])
    file = folder / "dh.pem"
    file.write_bytes(made)
    if place == "ssl_cert_file":
        own.certificate.write_bytes(own.certificate.read_bytes() + made)
    option = ("--ssl_dh_params_file", file) if place == "ssl_dh_params_file" else ()
    proxy = proxies.start("imap4", "-M", "", "--ssl_mode", "ssl_listen", *option, *shown(own))

    told = subprocess.run(
        [
            *("openssl", "s_client", "-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"),
            *("-connect", f"127.0.0.1:{proxy.port}"),
        ],
        input=b"",
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    ).stdout.decode()

    # OpenSSL 3.5 says Peer, and those before Server.
    assert " Temp Key: DH, 3072 bits" in told, f"{told}\n{proxy.evidence()}"


@pytest.mark.parametrize(
    ("options", "client", "welcome"),
    [
        ((), None, True),
        ((), "known", True),
        ((), "stranger", False),
        (("--ssl_no_client_cert_verify",), "stranger", True),
        (("--ssl_no_cert_verify",), "stranger", True),
    ],
)
def test_client_certificate(
    options: tuple[str, ...],
    client: str | None,
    welcome: bool,
    proxies: Proxies,
    authority: Authority,
    certificate: Certificate,
    folder: Path,
) -> None:
    """A client need not show one, but one that it shows must be verified, unless told not to."""
    vouching = {"known": authority, "stranger": Authority(folder, "unknown")}
    proxy = proxies.start(
        *("imap4", "-M", "", "--ssl_mode", "ssl_listen", "--ssl_ca_file", authority.file),
        *(*options, *shown(certificate)),
    )
    context = authority.trusted()
    if client:
        context.load_cert_chain(*vouching[client].issue(client))

    if welcome:
        greeted(proxy.address, "imap4", TLS("ssl", context)).close()
    else:
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            greeted(proxy.address, "imap4", TLS("ssl", context))
        proxy.wait_for_log("no TLS with the client: certificate verify failed")


@pytest.mark.parametrize("peer", [UP_TO_1_2, {}], ids=["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize(
    ("protocol", "name"), [("pop3", "pop3"), ("imap4", "imap"), ("managesieve", "managesieve")]
)
def test_alpn(
    protocol: str,
    name: str,
    peer: dict[str, ssl.TLSVersion],
    proxies: Proxies,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """The protocol is answered; a browser that was tricked into coming here is turned away."""
    proxy = proxies.start(protocol, "-M", "", "--ssl_mode", "ssl_listen", *shown(certificate))
    context = authority.trusted()
    for key, value in peer.items():
        setattr(context, key, value)

    context.set_alpn_protocols(["h2", name])
    with handshake(proxy, context) as tls:
        assert tls.selected_alpn_protocol() == name

    context.set_alpn_protocols(["h2", "http/1.1"])
    refused = pytest.raises(ssl.SSLError, match="no application protocol")
    with refused, handshake(proxy, context):
        pass
    proxy.wait_for_log(r"no TLS with the client: .*another protocol \(ALPN\)")


@pytest.mark.parametrize("peer", [UP_TO_1_2, {}], ids=["tlsv1.2", "tlsv1.3"])
def test_any_worker_resumes_a_session(
    peer: dict[str, ssl.TLSVersion],
    proxies: Proxies,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """Whichever worker a client comes to, it need not begin anew."""
    mode = ("--ssl_mode", "ssl_listen", "--workers", "2")
    proxy = proxies.start("imap4", "-M", "", *mode, *shown(certificate))
    context = authority.trusted()
    for key, value in peer.items():
        setattr(context, key, value)
    with handshake(proxy, context) as first:
        assert first.recv(1), "the greeting, before which TLS 1.3 gives no session"
        session = first.session

    with ExitStack() as stack:
        count = 0
        while not all(proxy.expect_sessions(count).values()):
            for _ in range(10):
                connection = stack.enter_context(socket.create_connection(proxy.address))
                again = stack.enter_context(
                    context.wrap_socket(connection, server_hostname="localhost", session=session)
                )
                assert again.session_reused
            count += 10
            assert count < 200, f"one worker takes no clients\n{proxy.evidence()}"


@pytest.mark.parametrize(("host", "told"), [("localhost", "localhost"), ("127.0.0.1", None)])
@pytest.mark.parametrize("use", ["ssl", "starttls"])
def test_real_server_is_told_which_name_is_wanted(
    use: str,
    host: str,
    told: str | None,
    proxies: Proxies,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """It may have several: SNI has the name, and no address (RFC 6066)."""
    names: list[str | None] = []
    context = showing(certificate)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with ScriptedServer() as server:
        mode = ("--ssl_mode", OUTGOING[use], "--ssl_ca_file", authority.file)
        proxy = proxies.start("imap4", "-M", "", "-s", f"{host}:{server.port}", *mode)
        with visited(server, proxy) as (client, real):
            if use == "ssl":
                real.start_tls(context)
                let_in(real, "imap4")
            else:
                go_on_with_tls(real, "imap4", context)
                play(real, PARTS["imap4"].login)
            client.read_until(rb"a OK.*\r\n")

    assert names == [told]


@pytest.mark.parametrize("side", ["listen", "outgoing"])
def test_log_tells_what_openssl_really_allows(
    side: str, proxies: Proxies, certificate: Certificate
) -> None:
    """The manual's lowest version, tlsv1, is spoken nowhere any more."""
    proxy = proxies.start("imap4", "-M", "", "--ssl_mode", f"ssl_{side}", *shown(certificate))

    proxy.wait_for_log(f"ssl_{side}_min_proto_version is tlsv1, but OpenSSL .* below tlsv1.2")
