"""TLS with real servers, by pyOpenSSL: which certificates are accepted.

The standard library cannot be told to accept one objection and not another, as the manual's
options want it. With clients it is used nevertheless: an idle connection costs two thirds there.
"""

import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from OpenSSL import SSL

from perdition.net.certificate import Holder, ascii_form, is_address
from perdition.net.tls import DEFAULT_CIPHERS, bad_ciphers, load_authorities
from perdition.options import Options

T = TypeVar("T")

VERSIONS = {
    "sslv3": SSL.SSL3_VERSION,
    "tlsv1": SSL.TLS1_VERSION,
    "tlsv1.1": SSL.TLS1_1_VERSION,
    "tlsv1.2": SSL.TLS1_2_VERSION,
    "tlsv1.3": SSL.TLS1_3_VERSION,
}
RELEASE_BUFFERS = 0x10
"""OpenSSL's SSL_MODE_RELEASE_BUFFERS: an idle connection keeps none."""

NOT_YET_VALID = 9
EXPIRED = 10
SELF_SIGNED = 18
SELF_SIGNED_AUTHORITY = 19
OBJECTIONS = {
    NOT_YET_VALID: "it is not yet valid",
    EXPIRED: "it has expired",
    SELF_SIGNED: "it is signed by itself",
    SELF_SIGNED_AUTHORITY: "its authority is signed by itself and not known here",
    20: "its issuer is not known here",
    21: "its issuer is not known here",
}
"""OpenSSL's numbers (x509_vfy.h) of what the options can overlook, or sites often see."""


class OutgoingTLS:
    """TLS with real servers, as the options want it."""

    def __init__(self, options: Options) -> None:
        """Make the context; raises StartupError."""
        self.options = options
        self.context = context = SSL.Context(SSL.TLS_METHOD)
        context.set_mode(RELEASE_BUFFERS)
        context.set_options(ssl.OP_NO_RENEGOTIATION)
        context.set_min_proto_version(VERSIONS[options.ssl_outgoing_min_proto_version])
        if options.ssl_outgoing_max_proto_version:
            context.set_max_proto_version(VERSIONS[options.ssl_outgoing_max_proto_version])
        if not options.ssl_outgoing_compression:
            context.set_options(SSL.OP_NO_COMPRESSION)
        try:
            context.set_cipher_list((options.ssl_outgoing_ciphers or DEFAULT_CIPHERS).encode())
        except SSL.Error as error:
            raise bad_ciphers("ssl_outgoing_ciphers", options.ssl_outgoing_ciphers) from error
        load_authorities(options, lambda *where: call(context.load_verify_locations, *where))
        self.overlooked = {
            number
            for number, option in (
                (EXPIRED, options.ssl_cert_accept_expired),
                (NOT_YET_VALID, options.ssl_cert_accept_not_yet_valid),
                (SELF_SIGNED, options.ssl_cert_accept_self_signed),
                (SELF_SIGNED_AUTHORITY, options.ssl_ca_accept_self_signed),
            )
            if option
        }
        if options.ssl_no_cert_verify:
            context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        else:
            context.set_verify(SSL.VERIFY_PEER, self.judge)

    def judge(
        self, connection: SSL.Connection, certificate: Any, number: int, depth: int, ok: int
    ) -> bool:
        """Accept or refuse a certificate of a chain; note why it was refused."""
        objection = ""
        if depth > self.options.ssl_cert_verify_depth:
            objection = "it is further up than ssl_cert_verify_depth"
        elif not ok and number not in self.overlooked:
            objection = OBJECTIONS.get(number, f"OpenSSL's verify error {number}")
        if objection:
            connection.set_app_data(
                f"certificate of {certificate.get_subject().CN!r} at depth {depth}: {objection}"
            )
        return not objection

    def wrap(self, sock: socket.socket, host: str) -> "Connection":
        """Return a real server's socket with TLS, whose handshake is to come."""
        connection = SSL.Connection(self.context, sock)
        connection.set_connect_state()
        if not is_address(host):
            connection.set_tlsext_host_name(ascii_form(host).removesuffix(".").encode())
        return Connection(connection, sock, "" if self.options.ssl_no_cn_verify else host)


class Connection:
    """A connection of pyOpenSSL with the face of an SSLSocket.

    ``host`` is whom the certificate must be for ("": anybody).
    """

    __slots__ = ("connection", "host", "sock")

    def __init__(self, connection: SSL.Connection, sock: socket.socket, host: str) -> None:
        self.connection = connection
        self.sock = sock
        self.host = host

    def do_handshake(self) -> None:
        """Go on with the handshake; raises OSError if it fails or the holder is another."""
        try:
            call(self.connection.do_handshake)
        except ssl.SSLError:
            if objection := self.connection.get_app_data():
                raise ssl.SSLError(1, objection) from None
            raise
        if self.host and not self.is_for(self.host):
            raise ssl.SSLError(1, f"the certificate is not for {self.host}")

    def is_for(self, host: str) -> bool:
        """Tell whether the peer's certificate is for a host, as far as it can be understood."""
        certificate = self.connection.get_peer_certificate()
        try:
            return bool(certificate) and Holder.of(certificate.to_cryptography()).is_named(host)
        except Exception:  # noqa: BLE001 - the library has many names for it
            return False

    def fileno(self) -> int:
        return self.sock.fileno()

    def recv(self, count: int) -> bytes:
        octets: bytes = call(self.connection.recv, count, end=b"")
        return octets

    def recv_into(self, buffer: memoryview) -> int:
        count: int = call(self.connection.recv_into, buffer, end=0)
        return count

    def send(self, octets: bytes | memoryview) -> int:
        count: int = call(self.connection.send, octets)
        return count

    def pending(self) -> int:
        return int(self.connection.pending())

    def version(self) -> str:
        return str(self.connection.get_protocol_version_name())

    def unwrap(self) -> None:
        """Tell the peer that we end."""
        call(self.connection.shutdown)

    def close(self) -> None:
        self.sock.close()


def call(function: Callable[..., T], *arguments: object, end: T | None = None) -> T:
    """Call a method of pyOpenSSL and raise what the standard library would.

    ``end`` is returned when the peer has ended the connection.
    """
    try:
        return function(*arguments)
    except SSL.WantReadError:
        raise ssl.SSLWantReadError from None
    except SSL.WantWriteError:
        raise ssl.SSLWantWriteError from None
    except (SSL.ZeroReturnError, SSL.SysCallError) as error:
        if end is None:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer closed the connection") from error
        return end
    except SSL.Error as error:
        words = [part for entry in error.args[:1] for one in entry for part in one if part]
        raise ssl.SSLError(1, words[-1] if words else "unknown reason") from error
