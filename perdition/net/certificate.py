"""The identities in a certificate, and whether they match a host (RFC 6125, RFC 9525)."""

from ipaddress import ip_address
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID


class CertificateNames(NamedTuple):
    """The DNS names, in lower case, and the IP addresses that a certificate is for."""

    names: tuple[str, ...]
    addresses: tuple[str, ...]

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "CertificateNames":
        """Read subjectAltName; the common name counts only if that has no DNS name or address.

        Raises any exception of the library for a certificate that it cannot parse.
        """
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = tuple(name.lower() for name in found.value.get_values_for_type(x509.DNSName))
            addresses = tuple(map(str, found.value.get_values_for_type(x509.IPAddress)))
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
