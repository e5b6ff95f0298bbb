"""TLS connections between perdition and a peer."""

import ctypes
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from OpenSSL import SSL

from perdition.net.tls import TLSConnection
from perdition.net.tls_listening import ListeningTLS, listening_files
from perdition.net.tls_outgoing import OutgoingTLS
from perdition.net.transport import TLSError, WantRead, WantWrite
from perdition.options.table import Options
from tests.support.authority import Authority, rsa_key
from tests.support.dovecot import Certificate

ROUND_TRIPS = 4
"""Calls of each end that complete a handshake."""
SOME = 50
MANY = 100_000


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """The certificate of the end that is the server."""
    return Authority(tmp_path).issue(chain=False)


def read(certificate: Certificate) -> tuple[Options, dict[str, bytes]]:
    """Options with a certificate, and its files."""
    options = Options(
        ssl_cert_file=(str(certificate.certificate),), ssl_key_file=(str(certificate.key),)
    )
    return options, {path: Path(path).read_bytes() for path in listening_files(options)}


def to_client(sock: socket.socket, certificate: Certificate) -> TLSConnection:
    """Perdition's end of a connection with a client."""
    return ListeningTLS(*read(certificate), "").wrap(sock)


def to_server(sock: socket.socket, _: Certificate) -> TLSConnection:
    """Perdition's end of a connection with a real server."""
    return OutgoingTLS(Options(ssl_no_cert_verify=True)).wrap(sock, "localhost")


either_side = pytest.mark.parametrize("begin", [to_client, to_server])


@contextmanager
def connected(
    begin: Callable[[socket.socket, Certificate], TLSConnection], certificate: Certificate
) -> Iterator[tuple[TLSConnection, SSL.Connection]]:
    """Perdition's end and the peer's, after the handshake."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for each in (ours, theirs):
            each.setblocking(False)
        context = SSL.Context(SSL.TLS_METHOD)
        if begin is to_server:
            context.use_certificate_file(str(certificate.certificate))
            context.use_privatekey_file(str(certificate.key))
        connection, peer = begin(ours, certificate), SSL.Connection(context, theirs)
        if begin is to_server:
            peer.set_accept_state()
        else:
            peer.set_connect_state()
        do_handshakes(connection, peer)
        yield connection, peer


def do_handshakes(*ends: TLSConnection | SSL.Connection) -> None:
    """Do the handshake of both ends; raises the first error."""
    for _ in range(ROUND_TRIPS):
        for end in ends:
            with suppress(WantRead, SSL.WantReadError):
                end.do_handshake()


@cache
def openssl() -> ctypes.CDLL:
    """The OpenSSL that pyOpenSSL calls; skips where a wheel of PyPI's has one to itself."""
    bindings = "cryptography.hazmat.bindings"
    extension = import_module(f"{bindings}._rust")
    if not hasattr(extension, "_openssl"):  # before cryptography 40
        extension = import_module(f"{bindings}._openssl")
    library = ctypes.CDLL(extension.__file__)
    if not hasattr(library, "SSL_key_update"):
        pytest.skip("no OpenSSL of the system's: pyOpenSSL brings its own")
    return library


def renew_keys(peer: SSL.Connection, answer: bool) -> None:
    """Send a KeyUpdate (TLS 1.3), which pyOpenSSL has no method for."""
    pointer = ctypes.c_void_p(int(SSL._ffi.cast("uintptr_t", peer._ssl)))
    assert openssl().SSL_key_update(pointer, int(answer)) == 1
    peer.do_handshake()


@either_side
def test_read_ends_after_each_handshake_message(
    begin: Callable[[socket.socket, Certificate], TLSConnection], certificate: Certificate
) -> None:
    """A peer that sends nothing else must not block the worker."""
    with connected(begin, certificate) as (connection, peer):
        for _ in range(SOME):
            renew_keys(peer, answer=False)
        peer.send(b"at last")

        for _ in range(SOME):
            with pytest.raises(WantRead):
                connection.recv(100)
        while True:
            with suppress(WantRead):
                assert connection.recv(100) == b"at last"
                break


def demand_keys(connection: TLSConnection, peer: SSL.Connection) -> None:
    """Have a peer request new keys many times, and read none."""
    for _ in range(MANY):
        renew_keys(peer, answer=True)
        with suppress(WantRead):
            connection.recv(100)


@either_side
def test_peer_that_requests_new_keys_and_reads_none_is_dropped(
    begin: Callable[[socket.socket, Certificate], TLSConnection], certificate: Certificate
) -> None:
    """Waiting for it to read would spin, as there is always more to read from it."""
    with connected(begin, certificate) as (connection, peer):
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)

        with pytest.raises(TLSError, match="without reading replies"):
            demand_keys(connection, peer)


@either_side
def test_write_may_be_repeated_from_another_buffer(
    begin: Callable[[socket.socket, Certificate], TLSConnection], certificate: Certificate
) -> None:
    """A splice may have copied the bytes since the first try."""
    with connected(begin, certificate) as (connection, peer):
        data = bytes(range(256)) * 4096
        with pytest.raises(WantWrite):
            connection.send(memoryview(bytearray(data)))

        received, sent = b"", 0
        while len(received) < len(data):
            with suppress(SSL.WantReadError):
                received += peer.recv(len(data))
            if not sent:
                with suppress(WantWrite):
                    sent = connection.send(memoryview(bytearray(data)))
        assert (received, sent) == (data, len(data))


def only_rsa() -> SSL.Context:
    """TLS of a client that accepts RSA certificates only."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")
    return context


def test_renewed_key_may_be_of_another_type(certificate: Certificate, tmp_path: Path) -> None:
    """The old certificate is not shown any more, even to clients that accept no other type."""
    old = Authority(tmp_path, "old").issue("old", key=rsa_key(), chain=False)
    options, files = read(old)
    listening = ListeningTLS(options, files, "")
    for new, shown in ((old, True), (certificate, False)):
        files = {
            options.ssl_cert_file[0]: new.certificate.read_bytes(),
            options.ssl_key_file[0]: new.key.read_bytes(),
        }
        listening.load(files)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for each in (ours, theirs):
                each.setblocking(False)
            client = SSL.Connection(only_rsa(), theirs)
            client.set_connect_state()
            connection = listening.wrap(ours)
            if shown:
                do_handshakes(client, connection)
                assert client.get_peer_certificate()
            else:
                with pytest.raises(TLSError, match="no shared cipher"):
                    do_handshakes(client, connection)


@pytest.mark.parametrize("close_notify", [True, False], ids=["close_notify", "end of file"])
def test_half_closed_client_still_gets_its_answer(
    close_notify: bool, certificate: Certificate
) -> None:
    """With close_notify, and with an end of file alone."""
    with connected(to_client, certificate) as (connection, peer):
        peer.send(b"question")
        if close_notify:
            peer.shutdown()
        else:
            peer.sock_shutdown(socket.SHUT_WR)

        assert [connection.recv(100), connection.recv(100)] == [b"question", b""]
        connection.send(b"answer")
        assert peer.recv(100) == b"answer"
