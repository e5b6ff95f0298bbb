"""TLS with real servers: which certificates are accepted."""

import socket
from typing import Any

from OpenSSL import SSL

from perdition.net.certificate import Holder, ascii_form, is_address
from perdition.net.tls import Connection, authorities, call, new_context, trust
from perdition.net.transport import TLSError
from perdition.options.table import Options

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
        self.context = new_context(options, "outgoing")
        trust(self.context, authorities(options))
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
            self.context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        else:
            self.context.set_verify(SSL.VERIFY_PEER, self.judge)

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

    def wrap(self, sock: socket.socket, host: str) -> "ServerConnection":
        """Return a real server's socket with TLS, whose handshake is to come."""
        return ServerConnection(
            self.context, sock, host, holder="" if self.options.ssl_no_cn_verify else host
        )


class ServerConnection(Connection):
    """A connection to a real server, which is told the ``host`` that it is meant to be.

    ``holder`` is whom its certificate must be for ("": anybody).
    """

    __slots__ = ("holder",)

    def __init__(self, context: SSL.Context, sock: socket.socket, host: str, holder: str) -> None:
        super().__init__(context, sock)
        self.holder = holder
        self.connection.set_connect_state()
        if not is_address(host):
            self.connection.set_tlsext_host_name(ascii_form(host).removesuffix(".").encode())

    def do_handshake(self) -> None:
        """Go on with the handshake; raises OSError if it fails or the holder is another."""
        try:
            call(self.connection.do_handshake)
        except TLSError:
            if objection := self.connection.get_app_data():
                raise TLSError(objection) from None
            raise
        if self.holder and not self.is_for(self.holder):
            raise TLSError(f"the certificate is not for {self.holder}")

    def is_for(self, host: str) -> bool:
        """Tell whether the peer's certificate is for a host, as far as it can be understood."""
        certificate = self.connection.get_peer_certificate()
        try:
            return bool(certificate) and Holder.of(certificate.to_cryptography()).is_named(host)
        except Exception:  # noqa: BLE001 - the library has many names for it
            return False
