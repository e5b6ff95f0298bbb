"""No client sends its password in the clear where that login is refused anyway."""

import re
from pathlib import Path

import pytest

from tests.bench.__main__ import make_certificate
from tests.support.client_connection import connect_and_read_greeting
from tests.support.perdition import Perditions

CAPABILITIES = {
    "pop3": (b"CAPA", rb"(?m)^\.\r\n"),
    "managesieve": (b"CAPABILITY", rb"(?m)^OK.*\r\n"),
}
FIRST_COMMAND = {"pop3": b"USER joe", "managesieve": b'AUTHENTICATE "PLAIN"'}
LOGIN_METHODS = rb'(?m)^USER|SASL"? "?\w'


@pytest.mark.parametrize(
    ("protocol", "options", "reply"),
    [
        ("pop3", ("--login_disabled",), b"-ERR [SYS/TEMP] Login Disabled"),
        ("pop3", ("--ssl_mode", "tls_listen_force"), b"-ERR TLS not present"),
        ("managesieve", ("--login_disabled",), b'NO (TRYLATER) "Login Disabled"'),
        (
            "managesieve",
            ("--ssl_mode", "tls_listen_force"),
            b'NO (ENCRYPT-NEEDED) "TLS not present"',
        ),
    ],
)
def test_login_is_neither_offered_nor_begun(
    protocol: str, options: tuple[str, ...], reply: bytes, folder: Path, perditions: Perditions
) -> None:
    certificate, key = make_certificate(folder)
    files = ("--ssl_cert_file", certificate, "--ssl_key_file", key)
    proxy = perditions.start(protocol, "-M", "", *options, *files)
    with connect_and_read_greeting(proxy.address, protocol) as client:
        assert not re.search(LOGIN_METHODS, client.ask(*CAPABILITIES[protocol]))
        assert client.ask(FIRST_COMMAND[protocol], rb"\r\n") == reply + b"\r\n"
    proxy.wait_for_log('Auth: .*status="failed: (Login Disabled|TLS not present)"')
