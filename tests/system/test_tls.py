"""TLS with clients and with real servers, as sites configure it and clients use it."""

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
from tests.support.client_connection import (
    PROTOCOLS,
    ClientTLS,
    RawConnection,
    connect_and_read_greeting,
)
from tests.support.dovecot import Certificate, Dovecot
from tests.support.folders import public_folder
from tests.support.mail_clients import CLIENTS, ClientSettings
from tests.support.perdition import PerditionProcess, Perditions, popmap
from tests.support.scripted_server import (
    SERVER_SCRIPTS,
    ScriptedServer,
    accept_login,
    answer_commands,
    client_and_server,
    start_tls_before_login,
)
from tests.support.sieve import SieveClient
from tests.support.wait import DEADLINE
from tests.system.conftest import PASSWORDS

WORDS = {"joe": "windward", "ann": "leeward"}
"""One of these is in whatever a user reads, and in nothing that the other one reads."""

LISTENING = {"ssl": "ssl_listen", "starttls": "tls_listen"}
OUTGOING = {"plaintext": "none", "starttls": "tls_outgoing_force", "ssl": "ssl_outgoing"}
"""The mode that brings what the log calls so."""

REACHED = {
    (protocol, outgoing)
    for protocol in PROTOCOLS
    for outgoing in OUTGOING
    if (protocol, outgoing) != ("managesieve", "ssl")
}
"""Uses of TLS with Dovecot, whose ManageSieve has STARTTLS only."""

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """The certificate authority of perdition and of the real servers."""
    with public_folder() as folder:
        yield Authority(folder)


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    """perdition's, for clients and for real servers."""
    return authority.issue()


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, ClientTLS]:
    """Each use of TLS by a client that trusts the authority."""
    return {use: ClientTLS(use, authority.trusted()) for use in LISTENING}


@pytest.fixture(scope="module")
def homes(certificate: Certificate) -> Iterator[dict[str, Dovecot]]:
    """Each user's own Dovecot with TLS, with a message and a script."""
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
) -> Iterator[dict[tuple[str, str, str], PerditionProcess]]:
    """A perdition for each protocol and each use of TLS on either side."""
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
                proxy = stack.enter_context(PerditionProcess(protocol, folder, *options))
                found[protocol, use, outgoing] = proxy
        yield found


def shown(*certificates: Certificate) -> tuple[str | Path, ...]:
    """The options for these certificates."""
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
@pytest.mark.slow
def test_user_reads_their_own(
    name: str,
    use: str,
    outgoing: str,
    user: str,
    in_front: dict[tuple[str, str, str], PerditionProcess],
    authority: Authority,
    folder: Path,
) -> None:
    """A real client verifies perdition, perdition verifies the user's Dovecot; the log has both."""
    client = CLIENTS[name]
    if reason := client.missing():
        pytest.skip(reason)
    proxy = in_front[client.protocol, use, outgoing]

    text = client.read(
        ClientSettings(proxy.port, user, PASSWORDS[user], use, authority.file), folder
    )

    assert [word for word in WORDS.values() if word in text] == [WORDS[user]], text
    proxy.wait_for_log(
        rf'Auth: .* client-secure={use} .* authentication_id="{user}" .* '
        f'server-secure={outgoing} status="ok"'
    )


@pytest.mark.parametrize("use", LISTENING)
@every_protocol
@pytest.mark.slow
def test_openssl_client_logs_in(
    protocol: str,
    use: str,
    in_front: dict[tuple[str, str, str], PerditionProcess],
    authority: Authority,
) -> None:
    """openssl s_client, which operators test servers with, reaches the real server."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    proxy = in_front[protocol, use, "plaintext"]
    commands = PROTOCOLS[protocol]
    login = [command for command, _ in commands.credentials("joe", PASSWORDS["joe"])]
    service = {"pop3": "pop3", "imap4": "imap", "managesieve": "sieve"}[protocol]

    done = subprocess.run(
        [
            *("openssl", "s_client", "-quiet", "-crlf", "-connect", f"localhost:{proxy.port}"),
            *("-CAfile", authority.file, "-verify_return_error", "-verify_hostname", "localhost"),
            *(("-starttls", service) if use == "starttls" else ()),
        ],
        input=b"\n".join([*login, commands.noop[0], commands.logout, b""]),
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )

    told = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, told
    assert re.search(commands.noop[1], done.stdout), told


FEATURES = {
    "pop3": (b"CAPA", rb"(?m)^\.\r\n", b"UIDL"),
    "imap4": (b"c CAPABILITY", rb"(?m)^c OK", b"* CAPABILITY IMAP4 IMAP4REV1"),
    "managesieve": (b"CAPABILITY", rb"(?m)^OK", b'"VERSION" "1.0"'),
}
"""How a client asks what there is, the end of the answer, and what is always in it."""

ADVICE = {
    "pop3": {"STLS", "USER"},
    "imap4": {"STARTTLS", "LOGINDISABLED"},
    "managesieve": {"STARTTLS", "PLAIN"},
}
"""What depends on whether the client may log in, and may start TLS."""

LOGIN_ALLOWED = {"USER", "PLAIN"}


def advice(connection: RawConnection, protocol: str) -> set[str]:
    """What perdition announces of ADVICE."""
    question, end, always = FEATURES[protocol]
    words = re.findall(r"[\w.]+", connection.ask(question, end).decode())
    missing = set(re.findall(r"[\w.]+", always.decode())) - set(words)
    assert not missing, f"{missing} not in {words}"
    return ADVICE[protocol].intersection(words)


@pytest.mark.parametrize(
    ("mode", "before", "use"),
    [
        ("none", LOGIN_ALLOWED, None),
        ("ssl_listen", None, "ssl"),
        ("tls_listen", {"STLS", "STARTTLS", *LOGIN_ALLOWED}, "starttls"),
        ("tls_listen_force", {"STLS", "STARTTLS", "LOGINDISABLED"}, "starttls"),
    ],
)
@every_protocol
def test_features_depend_on_tls(
    protocol: str,
    mode: str,
    before: set[str] | None,
    use: str | None,
    perditions: Perditions,
    certificate: Certificate,
    tls: dict[str, ClientTLS],
) -> None:
    """STARTTLS and STLS are announced before the handshake, and not after it; a way to log in is
    announced where a login is allowed.
    """
    proxy = perditions.start(protocol, "-M", "", "--ssl_mode", mode, *shown(certificate))

    if before is not None:
        with connect_and_read_greeting(proxy.address, protocol) as client:
            assert advice(client, protocol) == before & ADVICE[protocol]
    if use:
        with connect_and_read_greeting(proxy.address, protocol, tls[use]) as client:
            assert advice(client, protocol) == LOGIN_ALLOWED & ADVICE[protocol]


@pytest.mark.slow
def test_no_password_is_accepted_before_tls_where_tls_is_forced(
    perditions: Perditions, certificate: Certificate, tls: dict[str, ClientTLS]
) -> None:
    """It is refused with a clear message, the real server gets nothing, and after STARTTLS it is
    accepted.
    """
    with ScriptedServer() as server, ExitStack() as stack:
        clients = []
        for protocol, commands in PROTOCOLS.items():
            options = ("-M", "", "-s", server.name, "--ssl_mode", "tls_listen_force")
            proxy = perditions.start(protocol, *options, *shown(certificate))
            client = stack.enter_context(connect_and_read_greeting(proxy.address, protocol))
            for command, _ in commands.credentials("joe", PASSWORDS["joe"]):
                client.send(command + b"\r\n")
            clients.append((proxy, client))

        for proxy, client in clients:
            client.read_until(rb"(?m)^(a NO \[PRIVACYREQUIRED\] |-ERR |NO .*)TLS not present")
            proxy.wait_for_log('client-secure=plaintext .* status="failed: TLS not present"')

        with client_and_server(server, perditions.of("imap4"), tls=tls["starttls"]) as (
            client,
            real,
        ):
            accept_login(real, "imap4")
            client.read_until(rb"(?m)^a OK")


@pytest.mark.parametrize("service", ["POP3S", "IMAP4S"])
def test_services_for_tls_need_no_mode(
    service: str, perditions: Perditions, authority: Authority, certificate: Certificate
) -> None:
    """POP3S and IMAP4S use TLS from the first byte on both sides."""
    protocol = service[:-1].lower()
    options = ("-M", "", "--protocol", service, "--ssl_ca_file", authority.file)
    with ScriptedServer() as server:
        proxy = perditions.start(protocol, *options, "-s", server.name, *shown(certificate))
        tls = ClientTLS("ssl", authority.trusted())
        with client_and_server(server, proxy, tls=tls) as (client, real):
            real.start_tls(showing(certificate))
            accept_login(real, protocol)
            client.read_until(rb"You are so in")

    proxy.wait_for_log(f'client-secure=ssl .* protocol={service} server-secure=ssl status="ok"')


@contextmanager
def handshake(
    proxy: PerditionProcess, context: ssl.SSLContext, host: str = "localhost"
) -> Iterator[ssl.SSLSocket]:
    """A client's TLS connection to perdition after the handshake.

    With TLS 1.3 perdition has not verified the client by then; `greeting` waits for that.
    """
    with RawConnection.to(proxy.address) as connection:
        yield connection.start_tls(context, host)


def holder(tls: ssl.SSLSocket) -> str:
    """The common name of the peer's certificate."""
    shown = tls.getpeercert(binary_form=True)
    assert shown, "no certificate is shown"
    subject = x509.load_der_x509_certificate(shown).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


@pytest.fixture(scope="module")
def with_two_names(authority: Authority) -> Iterator[PerditionProcess]:
    """A perdition with a certificate for mail, and one for pop and a wildcard."""
    mail = authority.issue("mail", ["mail.example"])
    pop = authority.issue("pop", ["pop.example", "*.wild.example"])
    options = ("-M", "", "--ssl_mode", "ssl_listen", *shown(mail, pop))
    with public_folder() as folder, PerditionProcess("imap4", folder, *options) as proxy:
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
    asked: str, expected: str, with_two_names: PerditionProcess, authority: Authority
) -> None:
    """The first one is for other names, and for clients without SNI."""
    context = authority.trusted()
    context.check_hostname = False

    with handshake(with_two_names, context, asked) as tls:
        assert holder(tls) == expected


@pytest.mark.parametrize("chain", ["in ssl_cert_file", "in ssl_ca_chain_file"])
def test_client_gets_the_whole_chain(
    chain: str, perditions: Perditions, authority: Authority, folder: Path
) -> None:
    """A client that has only the root can verify it."""
    middle = Authority(folder, "middle", authority)
    alone = chain != "in ssl_cert_file"
    options = ("--ssl_ca_chain_file", middle.file) if alone else ()
    proxy = perditions.start(
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


def agreed(
    connection: RawConnection, context: ssl.SSLContext, host: str | None = None
) -> str | None:
    """The negotiated version of TLS, None if there is none."""
    try:
        return connection.start_tls(context, host).version()
    except ssl.SSLError:
        return None


@every_limit
def test_versions_with_clients_are_limited_by_options(
    limit: str,
    version: str,
    peer: dict[str, ssl.TLSVersion],
    spoken: str | None,
    perditions: Perditions,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """ssl_listen_min_proto_version and ssl_listen_max_proto_version."""
    option = (f"--ssl_listen_{limit}_proto_version", version)
    proxy = perditions.start(
        "imap4", "-M", "", "--ssl_mode", "ssl_listen", *option, *shown(certificate)
    )
    context = authority.trusted()
    for name, value in peer.items():
        setattr(context, name, value)

    with RawConnection.to(proxy.address) as connection:
        assert agreed(connection, context, "localhost") == spoken
    if not spoken:
        proxy.wait_for_log("TLS handshake with client failed: (unsupported protocol|.*version)")


@every_limit
def test_versions_with_real_servers_are_limited_by_options(
    limit: str,
    version: str,
    peer: dict[str, ssl.TLSVersion],
    spoken: str | None,
    perditions: Perditions,
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
        proxy = perditions.start("imap4", *target, *option, *trust)

        with client_and_server(server, proxy) as (_, real):
            assert agreed(real, context) == spoken
        if not spoken:
            proxy.wait_for_log("TLS handshake with the real server failed: .*version")


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
def test_cipher_with_clients_is_configurable(
    options: tuple[str, ...],
    wanted: str,
    chosen: str,
    perditions: Perditions,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """ssl_listen_ciphers in their order, or in the client's if so configured."""
    mode = ("--ssl_mode", "ssl_listen", "--ssl_listen_max_proto_version", "tlsv1.2")
    proxy = perditions.start("imap4", "-M", "", *mode, *options, *shown(certificate))
    context = authority.trusted()
    context.set_ciphers(wanted)

    with handshake(proxy, context) as tls:
        assert (tls.cipher() or "no cipher")[0] == chosen


def test_cipher_with_real_servers_is_configurable(
    perditions: Perditions, authority: Authority, certificate: Certificate
) -> None:
    """Only ssl_outgoing_ciphers are offered, whatever the real server prefers."""
    context = showing(certificate)
    context.set_ciphers(f"{WEAK}:{STRONG}")
    with ScriptedServer() as server:
        proxy = perditions.start(
            *("imap4", "-M", "", "-s", server.name, "--ssl_mode", "ssl_outgoing"),
            *("--ssl_outgoing_ciphers", STRONG, "--ssl_outgoing_max_proto_version", "tlsv1.2"),
            *("--ssl_ca_file", authority.file),
        )
        with client_and_server(server, proxy) as (_, real):
            tls = real.start_tls(context)
            assert (tls.cipher() or "no cipher")[0] == STRONG


@pytest.mark.parametrize("place", ["ssl_dh_params_file", "ssl_cert_file"])
def test_diffie_hellman_parameters_are_used(
    place: str, perditions: Perditions, authority: Authority, folder: Path
) -> None:
    """From a file of their own, or from the certificate's."""
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
    proxy = perditions.start("imap4", "-M", "", "--ssl_mode", "ssl_listen", *option, *shown(own))

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
def test_client_certificate_must_be_valid(
    options: tuple[str, ...],
    client: str | None,
    welcome: bool,
    perditions: Perditions,
    authority: Authority,
    certificate: Certificate,
    folder: Path,
) -> None:
    """A client need not send one; one that it sends is verified, unless that is off."""
    vouching = {"known": authority, "stranger": Authority(folder, "unknown")}
    proxy = perditions.start(
        *("imap4", "-M", "", "--ssl_mode", "ssl_listen", "--ssl_ca_file", authority.file),
        *(*options, *shown(certificate)),
    )
    context = authority.trusted()
    if client:
        context.load_cert_chain(*vouching[client].issue(client))

    if welcome:
        connect_and_read_greeting(proxy.address, "imap4", ClientTLS("ssl", context)).close()
    else:
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            connect_and_read_greeting(proxy.address, "imap4", ClientTLS("ssl", context))
        proxy.wait_for_log("TLS handshake with client failed: certificate verify failed")


@pytest.mark.parametrize("peer", [UP_TO_1_2, {}], ids=["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize(
    ("protocol", "name"), [("pop3", "pop3"), ("imap4", "imap"), ("managesieve", "managesieve")]
)
def test_alpn_must_offer_the_protocol(
    protocol: str,
    name: str,
    peer: dict[str, ssl.TLSVersion],
    perditions: Perditions,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """The protocol is selected; a browser that was redirected here is refused."""
    proxy = perditions.start(protocol, "-M", "", "--ssl_mode", "ssl_listen", *shown(certificate))
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
    proxy.wait_for_log(r"TLS handshake with client failed: .*another protocol \(ALPN\)")


@pytest.mark.parametrize("peer", [UP_TO_1_2, {}], ids=["tlsv1.2", "tlsv1.3"])
def test_any_worker_resumes_a_session(
    peer: dict[str, ssl.TLSVersion],
    perditions: Perditions,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """A client can resume its TLS session on any worker."""
    mode = ("--ssl_mode", "ssl_listen", "--workers", "2")
    proxy = perditions.start("imap4", "-M", "", *mode, *shown(certificate))
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
def test_real_server_gets_the_server_name(
    use: str,
    host: str,
    told: str | None,
    perditions: Perditions,
    authority: Authority,
    certificate: Certificate,
) -> None:
    """SNI has a host name, and no address (RFC 6066)."""
    names: list[str | None] = []
    context = showing(certificate)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with ScriptedServer() as server:
        mode = ("--ssl_mode", OUTGOING[use], "--ssl_ca_file", authority.file)
        proxy = perditions.start("imap4", "-M", "", "-s", f"{host}:{server.port}", *mode)
        with client_and_server(server, proxy) as (client, real):
            if use == "ssl":
                real.start_tls(context)
                accept_login(real, "imap4")
            else:
                start_tls_before_login(real, "imap4", context)
                answer_commands(real, SERVER_SCRIPTS["imap4"].login)
            client.read_until(rb"a OK.*\r\n")

    assert names == [told]


@pytest.mark.parametrize("side", ["listen", "outgoing"])
@pytest.mark.slow
def test_log_warns_of_versions_that_openssl_disables(
    side: str, perditions: Perditions, certificate: Certificate
) -> None:
    """The manual's lowest version, tlsv1, is disabled in OpenSSL today."""
    proxy = perditions.start("imap4", "-M", "", "--ssl_mode", f"ssl_{side}", *shown(certificate))

    proxy.wait_for_log(f"ssl_{side}_min_proto_version is tlsv1, but OpenSSL .* below tlsv1.2")
