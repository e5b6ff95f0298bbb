"""TLS with clients: the certificates that perdition presents."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL

from perdition.failure import StartupError
from perdition.files import STDIN
from perdition.net.certificate import CertificateNames, build_chain
from perdition.net.tls import (
    TLSConnection,
    authority_files,
    load_authorities,
    new_context,
    translate_errors,
)
from perdition.net.transport import TLSError, error_text
from perdition.options.table import Options

DH_KEY_TOO_SMALL = "dh key too small"
"""OpenSSL's reason for Diffie-Hellman parameters below its security level."""
SESSION_ID_CONTEXT = b"perdition"
"""Required by OpenSSL to resume sessions if it verifies client certificates."""


class Identity(NamedTuple):
    """A certificate with its chain and its key: the content of their files."""

    file: str
    certificates: bytes
    key: bytes
    passphrase: str

    def __repr__(self) -> str:
        return f"Identity(file={self.file!r})"  # without the secrets

    @property
    def names(self) -> CertificateNames:
        """The certificate's names; none, if only OpenSSL can parse it."""
        try:
            return CertificateNames.of(x509.load_pem_x509_certificate(self.certificates))
        except Exception:  # noqa: BLE001 - the library raises many types
            return CertificateNames((), ())

    def load_into(self, context: SSL.Context) -> None:
        """Make the context present this identity; raises StartupError."""
        try:
            with memory_file(self.certificates) as certificates:
                translate_errors(context.use_certificate_chain_file, certificates)
            with memory_file(self.decrypted_key()) as key:
                translate_errors(context.use_privatekey_file, key)
            translate_errors(context.check_privatekey)
        except (OSError, ValueError) as error:
            raise StartupError(
                f"ssl_cert_file {self.file}: cannot be used with its ssl_key_file: "
                f"{error_text(error)}; expected a certificate, its key in PEM, and the passphrase"
            ) from error

    def decrypted_key(self) -> bytes:
        """Return the key in PEM without its passphrase; raises ValueError.

        pyOpenSSL 26 deprecates its own methods for passphrases and keys.
        """
        if b"ENCRYPTED" not in self.key:
            return self.key
        try:
            key = load_pem_private_key(self.key, os.fsencode(self.passphrase))
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(str(error)) from error
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextmanager
def memory_file(data: bytes) -> Iterator[str]:
    """Return the path of a file in memory, because some functions of OpenSSL only read files."""
    descriptor = os.memfd_create("perdition", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def listening_files(options: Options) -> dict[str, str]:
    """Return the files that contexts are created from, each with the option that names it.

    Raises StartupError.
    """
    certificates, keys = options.ssl_cert_file, options.ssl_key_file
    if len(certificates) != len(keys):
        raise StartupError(
            f"ssl_cert_file is set {len(certificates)} times and ssl_key_file {len(keys)} times; "
            "expected pairs"
        )
    files = dict.fromkeys(certificates, "ssl_cert_file") | dict.fromkeys(keys, "ssl_key_file")
    if options.ssl_ca_chain_file:
        files[options.ssl_ca_chain_file] = "ssl_ca_chain_file"
    elif verifies_clients(options) and "ssl_ca_file" in authority_files(options):
        files[options.ssl_ca_file] = "ssl_ca_file"
    if options.ssl_dh_params_file:
        files[options.ssl_dh_params_file] = "ssl_dh_params_file"
    return files


def verifies_clients(options: Options) -> bool:
    """Return whether a client's certificate, if it presents one, must be valid."""
    return not (options.ssl_no_cert_verify or options.ssl_no_client_cert_verify)


def identities(options: Options, files: dict[str, bytes], passphrase: str) -> list[Identity]:
    """Return the identities that are presented to clients, from the content of their files."""
    chain = b"\n" + files[options.ssl_ca_chain_file] if options.ssl_ca_chain_file else b""
    return [
        Identity(certificate, build_chain(files[certificate] + chain), files[key], passphrase)
        for certificate, key in zip(options.ssl_cert_file, options.ssl_key_file, strict=True)
    ]


def read_passphrase(options: Options) -> str:
    """Return the passphrase of the keys: the first line of its source; raises StartupError.

    If no option names a source and standard input is a terminal, perdition prompts for it.
    """
    path, descriptor = options.ssl_passphrase_file, options.ssl_passphrase_fd
    if not path and descriptor is None and os.isatty(STDIN):
        from getpass import getpass

        return getpass("Passphrase of ssl_key_file: ")
    where = f"ssl_passphrase_file {path}" if path else f"ssl_passphrase_fd {descriptor or STDIN}"
    try:
        with os.fdopen(
            os.open(path, os.O_RDONLY) if path else os.dup(descriptor or STDIN), "rb"
        ) as source:
            return os.fsdecode(source.readline().rstrip(b"\r\n"))
    except OSError as error:
        raise StartupError(
            f"{where}: {error.strerror}; expected a readable file or descriptor"
        ) from error


class ListeningTLS:
    """TLS with clients: a context for each identity; the first one is the default.

    A connection starts in ``initial_context`` and is switched to one of the others by SNI. The
    initial context has the keys of session tickets. It is created before the fork and survives
    reloads, so that any worker can resume any session.
    """

    def __init__(self, options: Options, files: dict[str, bytes], passphrase: str) -> None:
        """Create the contexts from the content of the files; raises StartupError."""
        self.options = options
        self.passphrase = passphrase
        self.warnings: list[str] = []
        self.protocol = options.service.protocol.alpn.encode()
        self.authorities = authority_files(options) if verifies_clients(options) else {}
        self.initial_context = self.context(files)
        self.initial_context.set_tlsext_servername_callback(self.select_context)
        self.load(files)

    def load(self, files: dict[str, bytes]) -> None:
        """Use the files for new connections; changes nothing if it raises StartupError."""
        contexts, names = [], []
        for identity in identities(self.options, files, self.passphrase):
            context = self.context(files)
            identity.load_into(context)
            contexts.append(context)
            names.append(identity.names)
        self.contexts = contexts
        self.names = names

    def context(self, files: dict[str, bytes]) -> SSL.Context:
        """Return a context without an identity, set by the options; raises StartupError."""
        context = new_context(self.options, "listen")
        context.set_session_id(SESSION_ID_CONTEXT)
        context.set_options(
            SSL.OP_IGNORE_UNEXPECTED_EOF
        )  # a client that closes its sending side may await a reply
        if not self.options.ssl_no_cipher_server_preference:
            context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
        context.set_alpn_select_callback(self.select_protocol)
        self.load_dh_parameters(context, files)
        if verifies_clients(self.options):
            context.set_verify(SSL.VERIFY_PEER, lambda *judged: bool(judged[-1]))
            load_authorities(context, self.authorities, lambda path: memory_file(files[path]))
        return context

    def load_dh_parameters(self, context: SSL.Context, files: dict[str, bytes]) -> None:
        """Load Diffie-Hellman parameters, if a file has them; raises StartupError."""
        path = self.options.ssl_dh_params_file
        try:
            with memory_file(files[path or self.options.ssl_cert_file[0]]) as file:
                translate_errors(context.load_tmp_dh, file)
        except OSError as error:
            if error.strerror == DH_KEY_TOO_SMALL:
                self.warn_of_short_parameters()
            elif path:  # in the file of a certificate they are optional
                raise StartupError(
                    f"ssl_dh_params_file {path}: {error_text(error)}; "
                    "expected a file with DH PARAMETERS in PEM"
                ) from error

    def warn_of_short_parameters(self) -> None:
        """Add a warning. It is not an error, because all current clients support ECDHE."""
        path = self.options.ssl_dh_params_file
        source = f"ssl_dh_params_file {path}" if path else "DH PARAMETERS in ssl_cert_file"
        warning = (
            f"{source}: {DH_KEY_TOO_SMALL} for the system's OpenSSL, so DHE ciphers are not "
            "offered; expected at least 2,048 bits"
        )
        if warning not in self.warnings:
            self.warnings.append(warning)

    def wrap(self, sock: socket.socket) -> TLSConnection:
        """Return a TLS connection over a client's socket, before its handshake."""
        connection = TLSConnection(self.initial_context, sock)
        connection.ssl.set_accept_state()
        return connection

    def select_context(self, connection: SSL.Connection) -> None:
        """Switch a connection to the context for the server name that its client sent (SNI)."""
        name = (connection.get_servername() or b"").decode("latin-1")
        connection.set_context(
            next(
                (
                    context
                    for context, names in zip(self.contexts, self.names, strict=True)
                    if name and names.matches(name)
                ),
                self.contexts[0],
            )
        )

    def select_protocol(self, _: SSL.Connection, offered: list[bytes]) -> bytes:
        """Return our protocol; refuse a client that offers only others in ALPN (RFC 7301).

        For example a browser that was tricked into connecting to a mail port.
        """
        if self.protocol not in offered:
            raise TLSError("the client asks for another protocol (ALPN)")
        return self.protocol
