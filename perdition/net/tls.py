"""TLS by pyOpenSSL: what both sides of perdition have in common.

The standard library's ``ssl`` can neither be told to accept one objection to a certificate and not
another, nor be kept from reading on for as long as a peer sends nothing but handshake messages.
"""

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from OpenSSL import SSL

from perdition.failure import StartupError
from perdition.net.wire import TLSError, WantRead, WantWrite, reason
from perdition.option_kinds import TLS_VERSIONS
from perdition.options import OPTIONS, Options

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
"""OpenSSL's SSL_MODE_ENABLE_PARTIAL_WRITE: a write ends after each record."""
MOVING_WRITE_BUFFER = 0x2
"""Its SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER: what is written again may have been copied meanwhile."""
AUTO_RETRY = 0x4
"""Its SSL_MODE_AUTO_RETRY: a read goes on until it has found something to return."""
RELEASE_BUFFERS = 0x10
"""Its SSL_MODE_RELEASE_BUFFERS: an idle connection keeps none."""


def new_context(options: Options, side: str) -> SSL.Context:
    """Return a context as the options want it on a side, listen or outgoing; raises StartupError.

    What pyOpenSSL turns on and gives no name to turn it off by, is turned off by a private one.
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
            f"{name} {ciphers}: no cipher of OpenSSL's; give a list as in ciphers(1)"
        ) from error
    return context


def authorities(options: Options) -> dict[str, str]:
    """Return the options that tell which authorities are trusted, and what is given there.

    Raises StartupError. The default ones need not be there: then no certificate can be verified.
    """
    chain = options.ssl_ca_chain_file
    found = {}
    for name in ("ssl_ca_chain_file",) if chain else ("ssl_ca_file", "ssl_ca_path"):
        path = getattr(options, name)
        if path and os.path.exists(path):
            found[name] = path
        elif path and path != OPTIONS[name].default:
            raise StartupError(f"{name} {path}: there is no such file; give one that there is")
    return found


def trust(
    context: SSL.Context,
    trusted: dict[str, str],
    at: Callable[[str], AbstractContextManager[str]] = nullcontext,
) -> None:
    """Have authorities trusted, whose files are found ``at`` other places; raises StartupError."""
    for name, path in trusted.items():
        try:
            if name == "ssl_ca_path":
                call(context.load_verify_locations, None, path)
            else:
                with at(path) as file:
                    call(context.load_verify_locations, file)
        except OSError as error:
            raise StartupError(
                f"{name} {path}: {reason(error)}; give authorities' certificates in PEM"
            ) from error


class Connection:
    """A connection of pyOpenSSL with the face of an SSLSocket.

    A read ends after each handshake message: a peer that sends one KeyUpdate after the other (TLS
    1.3) would else keep the whole worker in a single read.
    """

    __slots__ = ("connection", "sock")

    def __init__(self, context: SSL.Context, sock: socket.socket) -> None:
        self.connection = SSL.Connection(context, sock)
        self.sock = sock
        SSL._lib.SSL_clear_mode(self.connection._ssl, AUTO_RETRY)

    def do_handshake(self) -> None:
        """Go on with the handshake; raises OSError."""
        call(self.connection.do_handshake)

    def fileno(self) -> int:
        return self.sock.fileno()

    def recv(self, count: int) -> bytes:
        octets: bytes = read(self.connection.recv, count, end=b"")
        return octets

    def recv_into(self, buffer: memoryview) -> int:
        count: int = read(self.connection.recv_into, buffer, end=0)
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
    """Call a method of pyOpenSSL; raises WantRead, WantWrite, or TLSError.

    ``end`` is returned when the peer has ended the connection.
    """
    try:
        return function(*arguments)
    except SSL.WantReadError:
        raise WantRead from None
    except SSL.WantWriteError:
        raise WantWrite from None
    except (SSL.ZeroReturnError, SSL.SysCallError) as error:
        if end is None:
            raise TLSError("the peer closed the connection") from error
        return end
    except SSL.Error as error:
        words = [part for entry in error.args[:1] for one in entry for part in one if part]
        raise TLSError(words[-1] if words else "unknown reason") from error


def read(function: Callable[..., T], wanted: object, end: T) -> T:
    """Call a method of pyOpenSSL that reads; raises as ``call`` does, but never WantWrite.

    Who asks for new keys and then reads no answers is left: waiting for that one would be a spin,
    as there is always more to read.
    """
    try:
        return call(function, wanted, end=end)
    except WantWrite:
        raise TLSError("the peer asks for new keys and reads no answer") from None


def remarks(options: Options) -> list[str]:
    """Return what the system's OpenSSL makes of the options, where it is not what they say."""
    library = SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
    found = []
    for side in ("listen", "outgoing"):
        ciphers = f"ssl_{side}_ciphers"
        lowest = getattr(options, f"ssl_{side}_min_proto_version")
        too_low = TLS_VERSIONS.index(lowest) < TLS_VERSIONS.index("tlsv1.2")
        if too_low and NO_SECURITY not in getattr(options, ciphers):
            found.append(
                f"ssl_{side}_min_proto_version is {lowest}, but {library} speaks nothing below "
                f"tlsv1.2 at a security level above 0 ({ciphers} may end with :{NO_SECURITY})"
            )
        if getattr(options, f"ssl_{side}_compression"):
            found.append(
                f"ssl_{side}_compression is on, but TLS 1.3 has none, and {library} "
                "has it below that only where it was built with zlib"
            )
    return found
