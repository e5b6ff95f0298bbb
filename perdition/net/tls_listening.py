"""TLS with clients: the certificates that they are shown, and by whom."""

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
from perdition.net.certificate import Holder
from perdition.net.tls import Connection, authorities, call, new_context, trust
from perdition.net.wire import TLSError, reason
from perdition.options import Options

STDIN = 0
SESSION_ID_CONTEXT = b"perdition"
"""OpenSSL resumes no session without one where client certificates are verified."""


class Identity(NamedTuple):
    """A certificate with those that vouch for it, and its key, as they are in their files."""

    file: str
    certificates: bytes
    key: bytes
    passphrase: str

    def __repr__(self) -> str:
        return f"Identity(file={self.file!r})"  # and no secret

    @property
    def holder(self) -> Holder:
        """Whose certificate it is; nobody's, if it is one that only OpenSSL understands."""
        try:
            return Holder.of(x509.load_pem_x509_certificate(self.certificates))
        except Exception:  # noqa: BLE001 - the library has many names for it
            return Holder((), ())

    def load_into(self, context: SSL.Context) -> None:
        """Make this the identity of new connections; raises StartupError."""
        try:
            with in_memory(self.certificates) as certificates:
                call(context.use_certificate_chain_file, certificates)
            with in_memory(self.decrypted_key()) as key:
                call(context.use_privatekey_file, key)
            call(context.check_privatekey)
        except (OSError, ValueError) as error:
            raise StartupError(
                f"ssl_cert_file {self.file}: OpenSSL does not take it with its ssl_key_file: "
                f"{reason(error)}; give a certificate and its own key in PEM, and the passphrase"
            ) from error

    def decrypted_key(self) -> bytes:
        """Return the key in PEM without its passphrase; raises ValueError.

        pyOpenSSL 26 deprecates its ways to take a passphrase, or a key of its own kind.
        """
        if b"ENCRYPTED" not in self.key:
            return self.key
        try:
            key = load_pem_private_key(self.key, os.fsencode(self.passphrase))
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(str(error)) from error
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextmanager
def in_memory(octets: bytes) -> Iterator[str]:
    """Give octets the name of a file, for a while: some of OpenSSL reads files only."""
    descriptor = os.memfd_create("perdition", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, octets)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def listening_files(options: Options) -> dict[str, str]:
    """Return the files that contexts are made of, each with the option that names it.

    Raises StartupError.
    """
    certificates, keys = options.ssl_cert_file, options.ssl_key_file
    if len(certificates) != len(keys):
        raise StartupError(
            f"ssl_cert_file is given {len(certificates)} times and ssl_key_file {len(keys)} times; "
            "give them in pairs"
        )
    files = dict.fromkeys(certificates, "ssl_cert_file") | dict.fromkeys(keys, "ssl_key_file")
    if options.ssl_ca_chain_file:
        files[options.ssl_ca_chain_file] = "ssl_ca_chain_file"
    elif verifies_clients(options) and "ssl_ca_file" in authorities(options):
        files[options.ssl_ca_file] = "ssl_ca_file"
    if options.ssl_dh_params_file:
        files[options.ssl_dh_params_file] = "ssl_dh_params_file"
    return files


def verifies_clients(options: Options) -> bool:
    """Tell whether a certificate that a client shows must be good."""
    return not (options.ssl_no_cert_verify or options.ssl_no_client_cert_verify)


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
        from getpass import getpass

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

    A connection begins in the ``entrance`` and goes on in one of the contexts. The entrance has the
    keys of session tickets. It comes from before the fork and stays, so that any worker resumes any
    session.
    """

    def __init__(self, options: Options, files: dict[str, bytes], passphrase: str) -> None:
        """Make the contexts of what is in the files; raises StartupError."""
        self.options = options
        self.passphrase = passphrase
        self.protocol = options.service.protocol.alpn.encode()
        self.authorities = authorities(options) if verifies_clients(options) else {}
        self.entrance = self.context(files)
        self.entrance.set_tlsext_servername_callback(self.choose)
        self.load(files)

    def load(self, files: dict[str, bytes]) -> None:
        """Show clients what is in the files from now on; raises StartupError, changing nothing."""
        contexts, holders = [], []
        for identity in identities(self.options, files, self.passphrase):
            context = self.context(files)
            identity.load_into(context)
            contexts.append(context)
            holders.append(identity.holder)
        self.contexts = contexts
        self.holders = holders

    def context(self, files: dict[str, bytes]) -> SSL.Context:
        """Return a context as the options want it, without an identity; raises StartupError."""
        context = new_context(self.options, "listen")
        context.set_session_id(SESSION_ID_CONTEXT)
        context.set_options(SSL.OP_IGNORE_UNEXPECTED_EOF)  # who only half-closes awaits an answer
        if not self.options.ssl_no_cipher_server_preference:
            context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
        context.set_alpn_select_callback(self.agree)
        self.load_dh_parameters(context, files)
        if verifies_clients(self.options):
            context.set_verify(SSL.VERIFY_PEER, lambda *judged: bool(judged[-1]))
            trust(context, self.authorities, lambda path: in_memory(files[path]))
        return context

    def load_dh_parameters(self, context: SSL.Context, files: dict[str, bytes]) -> None:
        """Load Diffie-Hellman parameters, if a file has some; raises StartupError."""
        path = self.options.ssl_dh_params_file
        try:
            with in_memory(files[path or self.options.ssl_cert_file[0]]) as file:
                call(context.load_tmp_dh, file)
        except OSError as error:
            if path:  # a certificate's file need not have any
                raise StartupError(
                    f"ssl_dh_params_file {path}: {reason(error)}; "
                    "give a file with DH PARAMETERS in PEM"
                ) from error

    def wrap(self, sock: socket.socket) -> Connection:
        """Return a client's socket with TLS, whose handshake is to come."""
        wire = Connection(self.entrance, sock)
        wire.connection.set_accept_state()
        return wire

    def choose(self, connection: SSL.Connection) -> None:
        """Give a connection the context for the name that its client asks for, if for any."""
        name = (connection.get_servername() or b"").decode("latin-1")
        connection.set_context(
            next(
                (
                    context
                    for context, holder in zip(self.contexts, self.holders, strict=True)
                    if name and holder.is_named(name)
                ),
                self.contexts[0],
            )
        )

    def agree(self, _: SSL.Connection, offered: list[bytes]) -> bytes:
        """Return our protocol; refuse a client that offers only others by ALPN (RFC 7301).

        A browser that is tricked into speaking to a mail port does that.
        """
        if self.protocol not in offered:
            raise TLSError("the client wants to speak another protocol (ALPN)")
        return self.protocol
