"""TLS options, certificates and remarks, without a connection."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dh, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, ParameterFormat

from perdition.failure import StartupError
from perdition.net.certificate import is_issued_by
from perdition.net.tls import warnings
from perdition.net.tls_listening import ListeningTLS, identities, listening_files, read_passphrase
from perdition.net.tls_outgoing import OutgoingTLS, verify_error_text
from perdition.net.transport import TLSError, error_text
from perdition.options.table import OPTIONS, Options
from perdition.options.values import TLS_VERSIONS, SSLMode, TLSUse
from tests.support.authority import Authority, common_name, ec_key, rsa_key
from tests.support.dovecot import Certificate


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Authority(tmp_path).issue(chain=False)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """A socket without a connection."""
    with socket.socket() as found:
        yield found


def options(*certificates: Certificate, **more: object) -> Options:
    """Options with these certificates."""
    return Options(
        ssl_cert_file=tuple(str(each.certificate) for each in certificates),
        ssl_key_file=tuple(str(each.key) for each in certificates),
        **more,
    )


def read(wanted: Options) -> dict[str, bytes]:
    """The files of certificates and keys that options name."""
    return {path: Path(path).read_bytes() for path in listening_files(wanted)}


def test_certificates_and_keys_come_in_pairs() -> None:
    alone = Options(ssl_cert_file=("a", "b"), ssl_key_file=("a",))
    with pytest.raises(StartupError, match="ssl_cert_file is set 2 times and ssl_key_file 1"):
        listening_files(alone)


def test_manual_says_which_files_a_reload_reads(certificate: Certificate) -> None:
    said = {name for name, option in OPTIONS.items() if option.reread}
    assert said == set(listening_files(options(certificate, ssl_dh_params_file="dh")).values())


def test_chain_follows_each_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("one", chain=False), authority.issue("two", chain=False)
    wanted = options(*pair, ssl_ca_chain_file=str(authority.file))

    found = identities(wanted, read(wanted), "")

    assert [each.file for each in found] == list(wanted.ssl_cert_file)
    for each, own in zip(found, pair, strict=True):
        assert each.certificates.startswith(own.certificate.read_bytes())
        assert each.certificates.endswith(authority.chain)


@pytest.mark.parametrize("place", ["ssl_cert_file", "ssl_ca_chain_file"])
def test_chain_is_built_from_any_bundle(tmp_path: Path, place: str) -> None:
    """Clients get the certificate and its issuers, each once and in order, and nothing else."""
    root = Authority(tmp_path, "root")
    middle = Authority(tmp_path, "middle", root)
    lower = Authority(tmp_path, "lower", middle)
    (tmp_path / "other").mkdir()
    same_name = Authority(tmp_path / "other", "middle")
    strangers = [Authority(tmp_path, f"stranger{number}") for number in range(100)]
    own = lower.issue(chain=False)
    certificate = own.certificate.read_bytes()
    above = [authority.file.read_bytes() for authority in (root, same_name, lower, middle, lower)]
    bundle = b"# a comment\n" + b"\n".join(
        [*above, certificate, *(authority.file.read_bytes() for authority in strangers)]
    )
    if place == "ssl_cert_file":
        own.certificate.write_bytes(certificate + bundle)
        wanted = options(own)
    else:
        (tmp_path / "bundle").write_bytes(bundle)
        wanted = options(own, ssl_ca_chain_file=str(tmp_path / "bundle"))

    [found] = identities(wanted, read(wanted), "")

    assert found.certificates == certificate + lower.chain


def test_missing_issuer_ends_the_chain(tmp_path: Path) -> None:
    root = Authority(tmp_path, "root")
    own = Authority(tmp_path, "middle", root).issue(chain=False)
    wanted = options(own, ssl_ca_chain_file=str(root.file))
    [found] = identities(wanted, read(wanted), "")
    assert found.certificates == own.certificate.read_bytes()


@pytest.mark.parametrize("key", [ec_key(), rsa_key(), ed25519.Ed25519PrivateKey.generate()])
def test_issuer_is_recognised_by_its_signature(key: Any) -> None:
    issuer = ("authority", key)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        common_name("authority"), common_name("host"), ec_key().public_key(), 1, now, now
    )
    certificate = builder.sign(key, digest)
    for signer, expected in ((key, True), (rsa_key(), False), (ec_key(), False)):
        builder = x509.CertificateBuilder(
            common_name(issuer[0]), common_name("authority"), signer.public_key(), 1, now, now
        )
        assert is_issued_by(certificate, builder.sign(ec_key(), SHA256())) is expected


def test_short_diffie_hellman_parameters_are_a_warning(
    certificate: Certificate, tmp_path: Path
) -> None:
    parameters = dh.generate_parameters(2, 512).parameter_bytes(Encoding.PEM, ParameterFormat.PKCS3)
    file = tmp_path / "dh.pem"
    file.write_bytes(parameters)
    wanted = options(certificate, ssl_dh_params_file=str(file))
    listening = ListeningTLS(wanted, read(wanted), "")
    [warning] = listening.warnings
    assert warning.startswith(f"ssl_dh_params_file {file}: dh key too small for the system's")
    assert warning.endswith("expected at least 2,048 bits")


def test_keys_and_passphrases_are_not_shown(certificate: Certificate) -> None:
    wanted = options(certificate)
    [found] = identities(wanted, read(wanted), "open sesame")
    assert "open sesame" not in repr(found)
    assert "PRIVATE" not in repr(found)


def test_bad_certificate_leaves_the_loaded_ones(certificate: Certificate) -> None:
    wanted = options(certificate, ssl_listen_min_proto_version="tlsv1.2")
    listening = ListeningTLS(wanted, read(wanted), "")
    names = listening.names
    files = dict.fromkeys(listening_files(wanted), b"rubbish")

    with pytest.raises(StartupError, match=f"ssl_cert_file {certificate.certificate}"):
        listening.load(files)

    assert listening.names == names


@pytest.mark.parametrize(
    ("text", "passphrase"),
    [
        (b"word\nother\n", "word"),
        (b"word\r\n", "word"),
        (b"word", "word"),
        (b" two words \n", " two words "),
        (b"w\xf6rd\n", "w\udcf6rd"),
        (b"\n", ""),
        (b"", ""),
    ],
)
def test_passphrase_is_the_first_line(text: bytes, passphrase: str, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(text)
    assert read_passphrase(Options(ssl_passphrase_file=str(file))) == passphrase
    with file.open() as source:
        assert read_passphrase(Options(ssl_passphrase_fd=source.fileno())) == passphrase


BOTH_SIDES = SSLMode(TLSUse.TLS, TLSUse.TLS)


@pytest.mark.parametrize("side", ["listen", "outgoing"])
@pytest.mark.parametrize("version", TLS_VERSIONS)
def test_version_below_the_security_level_gets_a_remark(side: str, version: str) -> None:
    both = ("ssl_listen_min_proto_version", "ssl_outgoing_min_proto_version")
    limits = dict.fromkeys(both, "tlsv1.2") | {f"ssl_{side}_min_proto_version": version}

    found = warnings(Options(ssl_mode=BOTH_SIDES, **limits))

    low = version in ("sslv3", "tlsv1", "tlsv1.1")
    assert [f"ssl_{side}_min_proto_version is {version}" in line for line in found] == [True] * low


def test_security_level_0_gets_no_remark() -> None:
    ciphers = "DEFAULT:@SECLEVEL=0"
    wanted = Options(ssl_mode=BOTH_SIDES, ssl_listen_ciphers=ciphers, ssl_outgoing_ciphers=ciphers)
    assert not warnings(wanted)


@pytest.mark.parametrize("side", ["listen", "outgoing"])
def test_side_without_tls_gets_no_remark(side: str) -> None:
    """Its options have their defaults, which the site did not choose."""
    other = Options(ssl_mode=BOTH_SIDES._replace(**{side: TLSUse.NONE}))
    assert not any(f"ssl_{side}" in line for line in warnings(other))


@pytest.mark.parametrize("side", ["listen", "outgoing"])
def test_compression_gets_a_remark(side: str) -> None:
    wanted = Options(ssl_mode=BOTH_SIDES, **{f"ssl_{side}_compression": True})
    assert any(f"ssl_{side}_compression is on" in line for line in warnings(wanted))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("mail.example", b"mail.example"),
        ("mail.example.", b"mail.example"),
        ("bücher.example", b"xn--bcher-kva.example"),
        ("192.0.2.1", None),
        ("2001:db8::1", None),
    ],
)
def test_server_name_indication_is_the_host_name(
    host: str, name: bytes | None, sock: socket.socket
) -> None:
    """RFC 6066: in ASCII, without a dot at the end, and never an address."""
    connection = OutgoingTLS(Options()).wrap(sock, host)
    assert connection.ssl.get_servername() == name


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TLSError("wrong version number"), "the peer does not speak TLS"),
        (TLSError("it has expired"), "it has expired"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
    ],
)
def test_tls_error_has_a_readable_reason(error: OSError, text: str) -> None:
    assert error_text(error) == text


def test_rare_verification_errors_have_the_text_of_openssl() -> None:
    assert verify_error_text(23) == "certificate revoked"
