"""The options that the manual of perdition 2.2 promises: names, letters, arguments, defaults."""

import pytest

from perdition.cli import parse
from perdition.failure import StartupError
from perdition.options.table import OPTIONS

SIEVE = (
    '"IMPLEMENTATION" "perdition"  "SIEVE" "comparator-i;octet comparator-i;ascii-casemap fileinto '
    "reject envelope encoded-character vacation subaddress comparator-i;ascii-numeric relational "
    "regex imap4flags copy include variables body enotify environment mailbox date"
    '"  "SASL" "PLAIN"  "NOTIFY" "mailto"  "VERSION" "1.0"'
)

FLAGS = {
    "authenticate_in": "a",
    "client_server_specification": "c",
    "connection_logging": "C",
    "debug": "d",
    "help": "h",
    "inetd_mode": "i",
    "login_disabled": "",
    "no_bind_banner": "B",
    "no_daemon": "",
    "no_lookup": "n",
    "quiet": "q",
    "server_ok_line": "",
    "server_resp_line": "o",
    "ssl_ca_accept_self_signed": "",
    "ssl_cert_accept_expired": "",
    "ssl_cert_accept_not_yet_valid": "",
    "ssl_cert_accept_self_signed": "",
    "ssl_listen_compression": "",
    "ssl_no_cert_verify": "",
    "ssl_no_cipher_server_preference": "",
    "ssl_no_client_cert_verify": "",
    "ssl_no_cn_verify": "",
    "ssl_outgoing_compression": "",
    "tcp_keepalive": "",
    "username_from_database": "U",
}
"""All of them are off by default."""

NUMBERS = {
    "authenticate_timeout": ("", "1800"),
    "connect_relog": ("", "300"),
    "connection_limit": ("L", "0"),
    "ssl_cert_verify_depth": ("", "9"),
    "ssl_passphrase_fd": ("", "0"),
    "timeout": ("t", "1800"),
}

TEXTS = {
    "add_domain": ("A", ""),
    "bind_address": ("b", ""),
    "capability": ("I", ""),
    "domain_delimiter": ("D", "@"),
    "explicit_domain": ("e", ""),
    "imap_capability": ("", "IMAP4 IMAP4REV1"),
    "log_facility": ("F", "mail"),
    "log_passwd": ("", "never"),
    "lower_case": ("", ""),
    "managesieve_capability": ("", SIEVE),
    "map_library": ("M", "/usr/lib/libperditiondb_gdbm.so.0"),
    "map_library_opt": ("m", ""),
    "ok_line": ("O", "You are so in"),
    "outgoing_server": ("s", ""),
    "pop_capability": ("", "UIDL.USER"),
    "query_key": ("", ""),
    "ssl_ca_chain_file": ("", ""),
    "ssl_ca_file": ("", "/etc/perdition/perdition.ca.pem"),
    "ssl_ca_path": ("", "/etc/perdition/perdition.ca/"),
    "ssl_cert_file": ("", "/etc/perdition/perdition.crt.pem"),
    "ssl_key_file": ("", "/etc/perdition/perdition.key.pem"),
    "ssl_listen_ciphers": ("", ""),
    "ssl_listen_max_proto_version": ("", ""),
    "ssl_listen_min_proto_version": ("", "tlsv1"),
    "ssl_outgoing_ciphers": ("", ""),
    "ssl_outgoing_max_proto_version": ("", ""),
    "ssl_outgoing_min_proto_version": ("", "tlsv1"),
    "ssl_passphrase_file": ("", ""),
    "strip_domain": ("S", ""),
    "username": ("u", "nobody"),
}
"""As the manual has them, but for the VERSION of ManageSieve, which RFC 5804 says must be 1.0."""

DERIVED = {
    "config_file": ("f", "<basename>.conf"),
    "group": ("g", "no"),
    "listen_port": ("l", "110, 995, 143, 993 or 4190"),
    "outgoing_port": ("p", "listen_port"),
    "pid_file": ("", "<basename>/<basename>.pid"),
    "protocol": ("P", "POP3"),
    "ssl_dh_params_file": ("", "ssl_cert_file"),
    "ssl_mode": ("", "none"),
}
"""What stands in their defaults, which depend on other things."""

LETTERS = FLAGS | {
    name: letter for table in (NUMBERS, TEXTS, DERIVED) for name, (letter, _) in table.items()
}


def shown_default(name: str) -> str:
    """An option's default, as --help shows it."""
    option = OPTIONS[name]
    return option.derived or option.type.show(option.default)


def test_no_option_is_missing() -> None:
    assert len(LETTERS) == 69
    assert not LETTERS.keys() - OPTIONS.keys()


@pytest.mark.parametrize(("name", "letter"), LETTERS.items())
def test_letter(name: str, letter: str) -> None:
    assert OPTIONS[name].short == letter


@pytest.mark.parametrize("name", FLAGS)
def test_flag_takes_no_value_and_is_off(name: str) -> None:
    assert parse([f"--{name}"]).values == {name: True}
    with pytest.raises(StartupError, match=name):
        parse([f"--{name}=on"])
    assert shown_default(name) == "off"


@pytest.mark.parametrize("name", [*NUMBERS, *TEXTS, *DERIVED])
def test_value_must_be_given(name: str) -> None:
    with pytest.raises(StartupError, match=f"--{name}: expected a value"):
        parse([f"--{name}"])


@pytest.mark.parametrize(("name", "default"), [(name, row[1]) for name, row in NUMBERS.items()])
def test_number(name: str, default: str) -> None:
    assert parse([f"--{name}", "7"]).values == {name: 7}
    for wrong in ("", "x", "-1", "1.5", "0x10", " 1"):
        with pytest.raises(StartupError, match="digits"):
            parse([f"--{name}", wrong])
    assert shown_default(name).startswith(default)


@pytest.mark.parametrize(("name", "default"), [(name, row[1]) for name, row in TEXTS.items()])
def test_text(name: str, default: str) -> None:
    assert shown_default(name) == f'"{default}"'
    parse([f"--{name}", default])


@pytest.mark.parametrize(("name", "part"), [(name, row[1]) for name, row in DERIVED.items()])
def test_derived_default_is_told(name: str, part: str) -> None:
    assert part in shown_default(name)
