"""TLS with real servers: which certificates are accepted."""

import socket
from typing import Any

from OpenSSL import SSL

from perdition.net.certificate import CertificateNames, ascii_form, is_address
from perdition.net.tls import (
    TLSConnection,
    authority_files,
    load_authorities,
    new_context,
    translate_errors,
)
from perdition.net.transport import TLSError
from perdition.options.table import Options

NOT_YET_VALID = 9
EXPIRED = 10
SELF_SIGNED = 18
SELF_SIGNED_AUTHORITY = 19
VERIFY_ERRORS = {
    NOT_YET_VALID: "not yet valid",
    EXPIRED: "expired",
    SELF_SIGNED: "self-signed",
    SELF_SIGNED_AUTHORITY: "self-signed authority that is not trusted",
    20: "unknown issuer",
    21: "unknown issuer",
}
"""Errors that options can accept or that are common, by OpenSSL's number (x509_vfy.h)."""


class OutgoingTLS:
    """TLS with real servers, set by the options."""

    def __init__(self, options: Options) -> None:
        """Create the context; raises StartupError."""
        self.options = options
        self.context = new_context(options, "outgoing")
        load_authorities(self.context, authority_files(options))
        self.accepted_errors = {
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
            self.context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        else:
            self.context.set_verify(SSL.VERIFY_PEER, self.verify)

    def verify(
        self, connection: SSL.Connection, certificate: Any, number: int, depth: int, ok: int
    ) -> bool:
        """Accept or reject a certificate of a chain; store the reason for a rejection."""
        reason = ""
        if depth > self.options.ssl_cert_verify_depth:
            reason = "depth exceeds ssl_cert_verify_depth"
        elif not ok and number not in self.accepted_errors:
            reason = VERIFY_ERRORS.get(number) or verify_error_text(number)
        if reason:
            connection.set_app_data(
                f"certificate of {certificate.get_subject().CN!r} at depth {depth}: {reason}"
            )
        return not reason

    def wrap(self, sock: socket.socket, host: str) -> "ServerConnection":
        """Return a TLS connection over a real server's socket; the handshake is to follow."""
        return ServerConnection(
            self.context, sock, host, verified_host="" if self.options.ssl_no_cn_verify else host
        )


def verify_error_text(number: int) -> str:
    """Return OpenSSL's text for a verification error."""
    text = SSL._ffi.string(SSL._lib.X509_verify_cert_error_string(number))
    return str(text.decode())


class ServerConnection(TLSConnection):
    """A connection to a real server, which gets ``host`` by SNI.

    Its certificate must be for ``verified_host`` ("": for any host).
    """

    __slots__ = ("verified_host",)

    def __init__(
        self, context: SSL.Context, sock: socket.socket, host: str, verified_host: str
    ) -> None:
        super().__init__(context, sock)
        self.verified_host = verified_host
        self.ssl.set_connect_state()
        if not is_address(host):
            self.ssl.set_tlsext_host_name(ascii_form(host).removesuffix(".").encode())

    def do_handshake(self) -> None:
        """Continue the handshake; raises OSError, also if the certificate is for another host."""
        try:
            translate_errors(self.ssl.do_handshake)
        except TLSError:
            if reason := self.ssl.get_app_data():
                raise TLSError(reason) from None
            raise
        if self.verified_host:
            self.verify_host(self.verified_host)

    def verify_host(self, host: str) -> None:
        """Raise TLSError if the peer's certificate is for another host."""
        names = self.peer_names()
        if not names.matches(host):
            listed = ", ".join(dict.fromkeys(names.names + names.addresses)) or "no name"
            raise TLSError(f"the certificate is not for {host} but for {listed}")

    def peer_names(self) -> CertificateNames:
        """Return the names that the peer's certificate is for; none if it cannot be parsed."""
        try:
            certificate = self.ssl.get_peer_certificate()
            assert certificate
            return CertificateNames.of(certificate.to_cryptography())
        except Exception:  # noqa: BLE001 - the library raises many types
            return CertificateNames((), ())
