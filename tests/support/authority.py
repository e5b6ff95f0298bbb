"""A private certificate authority, and certificates of every kind: good, bad and odd."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from tests.support.dovecot import Certificate

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Extension = tuple[x509.ExtensionType, bool]
"""With whether it is critical."""
Life = tuple[int, int]
"""Days from now, when a certificate's time begins and ends."""

VALID: Life = (-1, 30)
EXPIRED: Life = (-30, -1)
NOT_YET_VALID: Life = (1, 30)

KEY_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)

HERE = ("localhost", "127.0.0.1")
"""What the hosts of all tests are called."""


class Authority:
    """An authority with a folder of its own; without an issuer it is a root.

    `file` is its certificate, `chain` that and those above it, in PEM.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "authority",
        issuer: Authority | None = None,
        life: Life = VALID,
    ) -> None:
        self.folder = folder
        self.name = name
        self.key = ec_key()
        self.issuer = issuer or self
        own = signed(
            (name, self.key),
            (self.issuer.name, self.issuer.key),
            life,
            authority_extensions(),
        )
        self.chain: bytes = own + (issuer.chain if issuer else b"")
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(own)

    def issue(
        self,
        name: str = "localhost",
        names: Iterable[str] = HERE,
        life: Life = VALID,
        key: Key | None = None,
        *,
        chain: bool = True,
    ) -> Certificate:
        """A certificate with that common name, for those hosts and addresses.

        With `chain` its file has the certificates of this authority and those above it, too.
        """
        key = key or ec_key()
        own = signed((name, key), (self.name, self.key), life, holder_extensions(names))
        return written(self.folder, name, own + (self.chain if chain else b""), key)

    def trusted(self) -> ssl.SSLContext:
        """TLS for a client that trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.file)
        return context


def self_signed(folder: Path, name: str = "self-signed", life: Life = VALID) -> Certificate:
    """A self-signed certificate."""
    key = ec_key()
    own = signed((name, key), (name, key), life, holder_extensions(HERE))
    return written(folder, name, own, key)


def showing(certificate: Certificate) -> ssl.SSLContext:
    """TLS for a server that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def ec_key() -> ec.EllipticCurvePrivateKey:
    """A private key, of the kind that is made fast."""
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key() -> rsa.RSAPrivateKey:
    """A private key, of the kind that DHE ciphers want."""
    return rsa.generate_private_key(65537, 2048)


def encrypt(certificate: Certificate, key: Key, passphrase: str, form: PrivateFormat) -> None:
    """Put a certificate's key under a passphrase."""
    encryption = BestAvailableEncryption(passphrase.encode())
    certificate.key.write_bytes(key.private_bytes(Encoding.PEM, form, encryption))


def signed(
    subject: tuple[str, Key],
    issuer: tuple[str, Key],
    life: Life,
    extensions: Iterable[Extension],
) -> bytes:
    """A certificate in PEM; subject and issuer are told by common name and private key.

    It has the identifiers of both keys, which Python 3.13 wants to see.
    """
    now = datetime.now(UTC)
    begin, end = (now + timedelta(days) for days in life)
    (name, key), (issuer_name, issuer_key) = subject, issuer
    builder = x509.CertificateBuilder(
        common_name(issuer_name),
        common_name(name),
        key.public_key(),
        x509.random_serial_number(),
        begin,
        end,
    )
    identifiers = (
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
    )
    for extension, critical in (*extensions, *((identifier, False) for identifier in identifiers)):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, SHA256()).public_bytes(Encoding.PEM)


def common_name(name: str) -> x509.Name:
    """A name with that common name only."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def authority_extensions() -> tuple[Extension, ...]:
    """What makes a certificate an authority's (RFC 5280, 4.2.1.3 and 4.2.1.9)."""
    uses = dict.fromkeys(KEY_USES, False) | {"key_cert_sign": True, "crl_sign": True}
    return (x509.BasicConstraints(ca=True, path_length=None), True), (x509.KeyUsage(**uses), True)


def holder_extensions(names: Iterable[str]) -> tuple[Extension, ...]:
    """The hosts and addresses that a certificate is for, if there are any."""
    found = [
        x509.IPAddress(ip_address(name)) if name[-1].isdigit() else x509.DNSName(name)
        for name in names
    ]
    return ((x509.SubjectAlternativeName(found), False),) if found else ()


def written(folder: Path, name: str, certificate: bytes, key: Key) -> Certificate:
    """The files of a certificate and of its key, which only its owner may read."""
    files = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    files.certificate.write_bytes(certificate)
    files.key.touch(0o600)
    files.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    return files
