"""Whether a certificate is for a host."""

import pytest
from cryptography import x509

from perdition.net.certificate import CertificateNames, is_address
from tests.support.authority import VALID, ec_key, holder_extensions, signed


def certificate(common_name: str, *names: str) -> x509.Certificate:
    """A self-signed certificate; ``names``, if any, go to subjectAltName."""
    party = (common_name, ec_key())
    return x509.load_pem_x509_certificate(signed(party, party, VALID, holder_extensions(names)))


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["mail.example"], "mail.example"),
        (["mail.example"], "MAIL.Example"),
        (["Mail.EXAMPLE"], "mail.example"),
        (["mail.example"], "mail.example."),
        (["mail.example", "pop.example"], "pop.example"),
        (["*.example"], "mail.example"),
        (["*.mail.example"], "a.mail.example"),
        (["xn--bcher-kva.example"], "xn--bcher-kva.example"),
        (["xn--bcher-kva.example"], "bücher.example"),
        (["192.0.2.1"], "192.0.2.1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["2001:db8::1"], "2001:DB8:0::1"),
    ],
)
def test_name_in_subject_alternative_name_matches(names: list[str], host: str) -> None:
    assert CertificateNames.of(certificate("other.example", *names)).matches(host)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["mail.example"], "pop.example"),
        (["mail.example"], "mail.example.org"),
        (["mail.example"], "a.mail.example"),
        (["mail.example"], "xmail.example"),
        (["mail.example"], ""),
        (["mail.example"], "."),
        (["*.example"], "example"),
        (["*.example"], "a.mail.example"),
        (["*.example"], "*.mail.example"),
        (["m*.example"], "mail.example"),
        (["mail.*"], "mail.example"),
        (["*"], "localhost"),
        (["192.0.2.1"], "192.0.2.2"),
        (["192.0.2.1"], "mail.example"),
        (["mail.example"], "192.0.2.1"),
    ],
)
def test_other_names_do_not_match(names: list[str], host: str) -> None:
    assert not CertificateNames.of(certificate(host or "x", *names)).matches(host)


@pytest.mark.parametrize("host", ["mail.example", "MAIL.example", "192.0.2.1"])
def test_common_name_matches_if_there_is_no_other_name(host: str) -> None:
    assert CertificateNames.of(certificate(host.lower())).matches(host)
    assert not CertificateNames.of(certificate(host.lower())).matches("other.example")


def test_common_name_is_ignored_beside_other_names() -> None:
    assert not CertificateNames.of(certificate("mail.example", "pop.example")).matches(
        "mail.example"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "::1", "2001:db8::1"])
def test_address_is_recognised(host: str) -> None:
    assert is_address(host)


@pytest.mark.parametrize("host", ["", "localhost", "192.0.2", "192.0.2.1.example", "[::1]", "1"])
def test_other_hosts_are_no_addresses(host: str) -> None:
    assert not is_address(host)


def test_common_name_is_ignored_beside_names_that_cannot_be_read() -> None:
    address_of_one_byte = bytes.fromhex("3003870101")
    unreadable = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, address_of_one_byte)
    party = ("mail.example", ec_key())
    found = x509.load_pem_x509_certificate(signed(party, party, VALID, [(unreadable, False)]))
    with pytest.raises(ValueError):  # noqa: PT011 - the library's own text
        CertificateNames.of(found)
