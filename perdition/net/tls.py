"""TLS with pyOpenSSL: what both sides of perdition have in common.

The standard library's ``ssl`` cannot accept some verification errors of a certificate and reject
others, and its reads do not return while a peer keeps sending handshake messages.
"""

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from OpenSSL import SSL

from perdition.failure import StartupError
from perdition.net.transport import TLSError, WantRead, WantWrite, error_text
from perdition.options.table import OPTIONS, Options
from perdition.options.values import TLS_VERSIONS, TLSUse

T = TypeVar("T")

DEFAULT_CIPHERS = "DEFAULT"
NO_SECURITY = "@SECLEVEL=0"
VERSIONS = {
    "sslv3": SSL.SSL3_VERSION,
    "tlsv1": SSL.TLS1_VERSION,
    "tlsv1.1": SSL.TLS1_1_VERSION,
    "tlsv1.2": SSL.TLS1_2_VERSION,
    "tlsv1.3": SSL.TLS1_3_VERSION,
}
PARTIAL_WRITE = 0x1
"""OpenSSL's SSL_MODE_ENABLE_PARTIAL_WRITE: a write returns after each record."""
MOVING_WRITE_BUFFER = 0x2
"""SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER: a write may be repeated from another address."""
AUTO_RETRY = 0x4
"""SSL_MODE_AUTO_RETRY: a read does not return between handshake messages."""
RELEASE_BUFFERS = 0x10
"""SSL_MODE_RELEASE_BUFFERS: an idle connection keeps no buffers."""


def new_context(options: Options, side: str) -> SSL.Context:
    """Return a context for a side ("listen" or "outgoing"), set by options; raises StartupError.

    Some modes that pyOpenSSL sets can only be cleared through its private ``_lib``.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_mode(RELEASE_BUFFERS | MOVING_WRITE_BUFFER)
    SSL._lib.SSL_CTX_clear_mode(context._context, PARTIAL_WRITE)
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    context.set_min_proto_version(VERSIONS[getattr(options, f"ssl_{side}_min_proto_version")])
    if highest := getattr(options, f"ssl_{side}_max_proto_version"):
        context.set_max_proto_version(VERSIONS[highest])
    if getattr(options, f"ssl_{side}_compression"):
        SSL._lib.SSL_CTX_clear_options(context._context, SSL.OP_NO_COMPRESSION)
    name = f"ssl_{side}_ciphers"
    ciphers = getattr(options, name)
    try:
        context.set_cipher_list((ciphers or DEFAULT_CIPHERS).encode())
    except SSL.Error as error:
        raise StartupError(
            f"{name} {ciphers}: no such cipher; expected a list as in ciphers(1)"
        ) from error
    return context


def authority_files(options: Options) -> dict[str, str]:
    """Return the paths of trusted authorities by the options that name them.

    Raises StartupError if a path does not exist. A missing default is left out; without any
    authority no certificate can be verified.
    """
    chain = options.ssl_ca_chain_file
    trusted = {}
    for name in ("ssl_ca_chain_file",) if chain else ("ssl_ca_file", "ssl_ca_path"):
        path = getattr(options, name)
        if path and os.path.exists(path):
            trusted[name] = path
        elif path and path != OPTIONS[name].default:
            raise StartupError(f"{name} {path}: no such file; expected certificates in PEM")
    return trusted


def load_authorities(
    context: SSL.Context,
    trusted: dict[str, str],
    opened: Callable[[str], AbstractContextManager[str]] = nullcontext,
) -> None:
    """Load trusted authorities into a context; raises StartupError.

    ``opened`` is a context manager that returns the path to read in place of an option's path.
    """
    for name, path in trusted.items():
        try:
            if name == "ssl_ca_path":
                translate_errors(context.load_verify_locations, None, path)
            else:
                with opened(path) as file:
                    translate_errors(context.load_verify_locations, file)
        except OSError as error:
            raise StartupError(
                f"{name} {path}: {error_text(error)}; expected certificates in PEM"
            ) from error


class TLSConnection:
    """A connection of pyOpenSSL with the interface of an SSLSocket.

    A read returns after each handshake message. Otherwise a peer that sends one KeyUpdate after
    another (TLS 1.3) would keep the whole worker in a single read.
    """

    __slots__ = ("sock", "ssl")

    def __init__(self, context: SSL.Context, sock: socket.socket) -> None:
        self.ssl = SSL.Connection(context, sock)
        self.sock = sock
        SSL._lib.SSL_clear_mode(self.ssl._ssl, AUTO_RETRY)

    def do_handshake(self) -> None:
        """Continue the handshake; raises OSError."""
        translate_errors(self.ssl.do_handshake)

    def fileno(self) -> int:
        return self.sock.fileno()

    def recv(self, count: int) -> bytes:
        data: bytes = read_or_eof(self.ssl.recv, count, at_eof=b"")
        return data

    def recv_into(self, buffer: memoryview) -> int:
        count: int = read_or_eof(self.ssl.recv_into, buffer, at_eof=0)
        return count

    def send(self, data: bytes | memoryview) -> int:
        count: int = translate_errors(self.ssl.send, data)
        return count

    def pending(self) -> int:
        return int(self.ssl.pending())

    def version(self) -> str:
        return str(self.ssl.get_protocol_version_name())

    def unwrap(self) -> None:
        """Send close_notify."""
        translate_errors(self.ssl.shutdown)

    def close(self) -> None:
        self.sock.close()


def translate_errors(function: Callable[..., T], *arguments: object, at_eof: T | None = None) -> T:
    """Call a method of pyOpenSSL; raises WantRead, WantWrite, or TLSError.

    ``at_eof`` is returned if the peer has closed the connection.
    """
    try:
        return function(*arguments)
    except SSL.WantReadError:
        raise WantRead from None
    except SSL.WantWriteError:
        raise WantWrite from None
    except (SSL.ZeroReturnError, SSL.SysCallError) as error:
        if at_eof is None:
            raise TLSError("the peer closed the connection") from error
        return at_eof
    except SSL.Error as error:
        words = [part for entry in error.args[:1] for one in entry for part in one if part]
        raise TLSError(words[-1] if words else "unknown reason") from error


def read_or_eof(function: Callable[..., T], wanted: object, at_eof: T) -> T:
    """Call a method of pyOpenSSL that reads; raises WantRead or TLSError, never WantWrite.

    A peer that requests new keys but does not read our KeyUpdates is disconnected: its socket is
    always readable, so the loop would spin while it waits to write.
    """
    try:
        return translate_errors(function, wanted, at_eof=at_eof)
    except WantWrite:
        raise TLSError("the peer sends KeyUpdate requests without reading replies") from None


def warnings(options: Options) -> list[str]:
    """Return warnings about options that the system's OpenSSL does not honour."""
    library = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
    texts = []
    sides = (("listen", options.tls.listen), ("outgoing", options.tls.outgoing))
    for side in (side for side, use in sides if use is not TLSUse.NONE):
        ciphers = f"ssl_{side}_ciphers"
        lowest = getattr(options, f"ssl_{side}_min_proto_version")
        too_low = TLS_VERSIONS.index(lowest) < TLS_VERSIONS.index("tlsv1.2")
        if too_low and NO_SECURITY not in getattr(options, ciphers):
            texts.append(
                f"ssl_{side}_min_proto_version is {lowest}, but {library} allows nothing below "
                f"tlsv1.2 at a security level above 0; append :{NO_SECURITY} to {ciphers}"
            )
        if getattr(options, f"ssl_{side}_compression"):
            texts.append(
                f"ssl_{side}_compression is on, but TLS 1.3 has no compression, and {library} "
                "supports it in older versions only if it was built with zlib"
            )
    return texts
