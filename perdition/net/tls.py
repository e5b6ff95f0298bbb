"""TLS with clients, by the standard library: the certificates that they are shown, and by whom."""

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdition.failure import StartupError
from perdition.net.client_hello import CLIENT_HELLO, offered_protocols
from perdition.net.wire import reason
from perdition.option_kinds import TLS_VERSIONS
from perdition.options import OPTIONS, Options

if TYPE_CHECKING:
    from perdition.net.certificate import Holder

NO_APPLICATION_PROTOCOL = 120
"""The alert for a client that wants to speak another protocol (RFC 7301)."""

DEFAULT_CIPHERS = "DEFAULT"
STDIN = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with those that vouch for it, and its key, as they are in their files."""

    file: str
    certificates: bytes
    key: bytes = field(repr=False)
    passphrase: str = field(repr=False)

    @property
    def holder(self) -> "Holder":
        """Whose certificate it is; nobody's, if it is one that only OpenSSL understands."""
        from cryptography import x509

        from perdition.net.certificate import Holder

        try:
            return Holder.of(x509.load_pem_x509_certificate(self.certificates))
        except Exception:  # noqa: BLE001 - the library has many names for it
            return Holder((), ())

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make this the identity of new connections; raises StartupError.

        The module reads files only, and these may be readable to others alone.
        """
        try:
            with in_memory(self.certificates) as certificates, in_memory(self.key) as key:
                context.load_cert_chain(certificates, key, self.passphrase)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise StartupError(
                f"ssl_cert_file {self.file}: OpenSSL does not take it with its ssl_key_file: "
                f"{reason(error)}; give a certificate and its own key in PEM, and the passphrase"
            ) from error


@contextmanager
def in_memory(octets: bytes) -> Iterator[str]:
    """Give octets the name of a file, for a while."""
    descriptor = os.memfd_create("perdition", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, octets)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def is_given(options: Options, name: str) -> bool:
    """Tell whether a site has named a file itself; a default one may be missing."""
    return bool(getattr(options, name) != OPTIONS[name][1])


def identity_files(options: Options) -> list[str]:
    """Return the files that identities are read from; raises StartupError."""
    certificates, keys = options.ssl_cert_file, options.ssl_key_file
    if len(certificates) != len(keys):
        raise StartupError(
            f"ssl_cert_file is given {len(certificates)} times and ssl_key_file {len(keys)} times; "
            "give them in pairs"
        )
    chain = (options.ssl_ca_chain_file,) if options.ssl_ca_chain_file else ()
    return [*certificates, *keys, *chain]


def identities(options: Options, files: dict[str, bytes], passphrase: str) -> list[Identity]:
    """Return the identities that clients are shown, from what is in their files."""
    chain = b"\n" + files[options.ssl_ca_chain_file] if options.ssl_ca_chain_file else b""
    return [
        Identity(certificate, files[certificate] + chain, files[key], passphrase)
        for certificate, key in zip(options.ssl_cert_file, options.ssl_key_file, strict=True)
    ]


def read_passphrase(options: Options) -> str:
    """Return the first line of where the keys' passphrase is; raises StartupError.

    If no option tells where, and somebody sits at standard input, that one is asked.
    """
    path, descriptor = options.ssl_passphrase_file, options.ssl_passphrase_fd
    if not path and descriptor is None and os.isatty(STDIN):
        return getpass("Passphrase of ssl_key_file: ")
    where = f"ssl_passphrase_file {path}" if path else f"ssl_passphrase_fd {descriptor or STDIN}"
    try:
        with os.fdopen(
            os.open(path, os.O_RDONLY) if path else os.dup(descriptor or STDIN), "rb"
        ) as source:
            return os.fsdecode(source.readline().rstrip(b"\r\n"))
    except OSError as error:
        raise StartupError(f"{where}: {error.strerror}; give a readable one") from error


class ListeningTLS:
    """TLS with clients: a context for each identity, of which the first is for unknown names.

    A connection begins in the ``entrance``, where its ClientHello is judged, and goes on in one of
    the contexts. All of them come from before the fork, so that any worker resumes any session.
    """

    def __init__(self, options: Options, identities: list[Identity]) -> None:
        """Make the contexts; raises StartupError."""
        self.options = options
        self.protocol = options.service.protocol.alpn
        self.contexts = [self.context() for _ in identities]
        self.holders: list[Holder] = []
        self.entrance = self.context()
        self.entrance.sni_callback = self.choose
        # Without a public name, but all that tells what a client offers by ALPN.
        self.entrance._msg_callback = note_hello  # type: ignore[attr-defined]
        self.load(identities)

    def load(self, identities: list[Identity]) -> None:
        """Show clients these identities from now on; raises StartupError, and changes nothing."""
        for identity in identities:
            identity.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        # Who has one certificate shows it to all: reading it would be half of inetd's start.
        holders = [identity.holder for identity in identities] if len(identities) > 1 else []
        identities[0].load_into(self.entrance)
        for context, identity in zip(self.contexts, identities, strict=True):
            identity.load_into(context)
        self.holders = holders

    def context(self) -> ssl.SSLContext:
        """Return a context as the options want it; raises StartupError."""
        options = self.options
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_RENEGOTIATION
        if options.ssl_listen_compression:
            context.options &= ~ssl.OP_NO_COMPRESSION
        if options.ssl_no_cipher_server_preference:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        else:
            context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        context.minimum_version = STDLIB_VERSIONS[options.ssl_listen_min_proto_version]
        if options.ssl_listen_max_proto_version:
            context.maximum_version = STDLIB_VERSIONS[options.ssl_listen_max_proto_version]
        context.set_alpn_protocols([self.protocol])
        try:
            context.set_ciphers(options.ssl_listen_ciphers or DEFAULT_CIPHERS)
        except ssl.SSLError as error:
            raise bad_ciphers("ssl_listen_ciphers", options.ssl_listen_ciphers) from error
        self.load_dh_parameters(context)
        if not (options.ssl_no_cert_verify or options.ssl_no_client_cert_verify):
            context.verify_mode = ssl.CERT_OPTIONAL
            load_authorities(options, context.load_verify_locations)
        return context

    def load_dh_parameters(self, context: ssl.SSLContext) -> None:
        """Load Diffie-Hellman parameters, if a file has some; raises StartupError."""
        path = self.options.ssl_dh_params_file
        try:
            if path:
                context.load_dh_params(path)
            else:
                with suppress(ssl.SSLError):  # a certificate's file need not have any
                    context.load_dh_params(self.options.ssl_cert_file[0])
        except (OSError, ValueError) as error:
            raise StartupError(
                f"ssl_dh_params_file {path}: {reason(error)}; give a file with DH PARAMETERS in PEM"
            ) from error

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """Return a client's socket with TLS, whose handshake is to come."""
        return self.entrance.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def choose(self, sock: Any, name: str | None, _: ssl.SSLContext) -> int | None:
        """Give a connection the context for the name that its client asks for.

        Returns an alert for a client that offers other protocols than ours.
        """
        offered = []
        with suppress(ValueError):
            offered = offered_protocols(sock.__dict__.pop(HELLO, b""))
        if offered and self.protocol.encode() not in offered:
            return NO_APPLICATION_PROTOCOL
        sock.context = next(
            (
                context
                for context, holder in zip(self.contexts, self.holders, strict=False)
                if name and holder.is_named(name)
            ),
            self.contexts[0],
        )
        return None


HELLO = "client_hello"


def note_hello(
    sock: Any, direction: str, version: Any, content: Any, kind: Any, message: bytes
) -> None:
    """Keep a ClientHello with its connection until a context is chosen for it."""
    if direction == "read" and kind == CLIENT_HELLO and message[:1] == bytes([CLIENT_HELLO]):
        sock.__dict__[HELLO] = message


def load_authorities(options: Options, load: Callable[[str | None, str | None], object]) -> None:
    """Load the authorities that certificates must come from; raises StartupError.

    The default ones need not be there: then no certificate can be verified.
    """
    chain = options.ssl_ca_chain_file
    for name in ("ssl_ca_chain_file",) if chain else ("ssl_ca_file", "ssl_ca_path"):
        path = getattr(options, name)
        if not path or not (is_given(options, name) or Path(path).exists()):
            continue
        if not Path(path).exists():
            raise StartupError(f"{name} {path}: there is no such file; give one that there is")
        try:
            load(None, path) if name == "ssl_ca_path" else load(path, None)
        except (ssl.SSLError, OSError) as error:
            raise StartupError(
                f"{name} {path}: {reason(error)}; give authorities' certificates in PEM"
            ) from error


def bad_ciphers(name: str, value: str) -> StartupError:
    """Return the error of a list of ciphers that OpenSSL does not take."""
    return StartupError(f"{name} {value}: no cipher of OpenSSL's; give a list as in ciphers(1)")


STDLIB_VERSIONS = {
    "sslv3": ssl.TLSVersion.SSLv3,
    "tlsv1": ssl.TLSVersion.TLSv1,
    "tlsv1.1": ssl.TLSVersion.TLSv1_1,
    "tlsv1.2": ssl.TLSVersion.TLSv1_2,
    "tlsv1.3": ssl.TLSVersion.TLSv1_3,
}


def remarks(options: Options) -> list[str]:
    """Return what the system's OpenSSL makes of the options, where it is not what they say."""
    level = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).security_level
    found = []
    for side in ("listen", "outgoing"):
        lowest = getattr(options, f"ssl_{side}_min_proto_version")
        if TLS_VERSIONS.index(lowest) < TLS_VERSIONS.index("tlsv1.2") and level > 0:
            found.append(
                f"ssl_{side}_min_proto_version is {lowest}, but {ssl.OPENSSL_VERSION} at security "
                f"level {level} speaks nothing below tlsv1.2"
            )
        if getattr(options, f"ssl_{side}_compression"):
            found.append(
                f"ssl_{side}_compression is on, but TLS 1.3 has none, and {ssl.OPENSSL_VERSION} "
                "has it below that only where it was built with zlib"
            )
    return found
