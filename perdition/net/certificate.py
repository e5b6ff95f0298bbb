"""Certificates: whether their names match a host (RFC 6125, RFC 9525), and their chains."""

import re
from ipaddress import ip_address
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)


class CertificateNames(NamedTuple):
    """The DNS names, in lower case, and the IP addresses that a certificate is for."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "CertificateNames":
        """Read subjectAltName, or the common name if that contains neither DNS name nor address.

        Raises any exception of the library for a certificate that it cannot parse.
        """
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = tuple(
                name.lower() for name in extension.value.get_values_for_type(x509.DNSName)
            )
            addresses = tuple(map(str, extension.value.get_values_for_type(x509.IPAddress)))
        except x509.ExtensionNotFound:
            names = addresses = ()
        if names or addresses:
            return cls(names, addresses)
        common = [
            str(attribute.value).lower()
            for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
        return cls(tuple(common), tuple(name for name in common if is_address(name)))

    def matches(self, host: str) -> bool:
        """Return whether the certificate is for a host; ``*`` matches one whole label."""
        if is_address(host):
            return any(ip_address(address) == ip_address(host) for address in self.addresses)
        host = ascii_form(host).lower().removesuffix(".")
        _, _, domain = host.partition(".")
        return host in self.names or (bool(domain) and f"*.{domain}" in self.names)


def ascii_form(host: str) -> str:
    """Return a host name's A-label form (RFC 5890); unchanged if it has none."""
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


def is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def build_chain(content: bytes) -> bytes:
    """Return the first certificate in PEM, followed by its issuers as far as they are present.

    TLS requires each certificate once and in this order (RFC 8446, section 4.4.2), but the file may
    be a bundle of many authorities. If the first certificate cannot be parsed, the content is
    returned unchanged, and OpenSSL reports the error.
    """
    certificates: dict[bytes, x509.Certificate] = {}
    for block in PEM.findall(content):
        try:
            certificates[block] = x509.load_pem_x509_certificate(block)
        except Exception:  # noqa: BLE001 - the library raises many types
            if not certificates:
                return content
    if not certificates:
        return content
    chain = [next(iter(certificates))]
    while issuer := next(
        (
            block
            for block, certificate in certificates.items()
            if block not in chain and is_issued_by(certificates[chain[-1]], certificate)
        ),
        None,
    ):
        chain.append(issuer)
    return b"".join(block + b"\n" for block in chain)


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether name and signature match an issuer; the name alone for RSA-PSS and DSA."""
    if certificate.issuer != issuer.subject:
        return False
    key, signature = issuer.public_key(), certificate.signature
    signed, digest = certificate.tbs_certificate_bytes, certificate.signature_hash_algorithm
    is_pss = certificate.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS
    try:
        if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
            key.verify(signature, signed)
        elif not digest:
            return False
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, signed, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and not is_pss:
            key.verify(signature, signed, padding.PKCS1v15(), digest)
    except InvalidSignature:
        return False
    return True
