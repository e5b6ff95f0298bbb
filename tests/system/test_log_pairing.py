"""Pairing perdition's log with a real server's."""

from pathlib import Path

import pytest

from tests.support.client_connection import LoggedInClient
from tests.support.perdition import Perditions
from tests.support.real_server import RealServer
from tests.system.conftest import PASSWORDS


@pytest.mark.parametrize("protocol", ["pop3", "imap4", "managesieve"])
def test_debug_log_has_the_address_that_the_real_server_sees(
    protocol: str, small_server: RealServer, perditions: Perditions
) -> None:
    target = ("-M", "", "-s", small_server.server(protocol))
    proxy = perditions.start(protocol, *target, "--debug")
    with LoggedInClient(proxy.address, protocol, "joe", PASSWORDS["joe"]) as client:
        server = small_server.server(protocol)
        [line] = proxy.wait_for_log(rf"{client.own_address}->.*: real server: ")
        own_address, _, remote = line.rpartition(": ")[2].partition("->")
        assert remote == server
        host, _, port = own_address.partition(":")
        assert host == "127.0.0.1"
        ports = int(port), small_server.ports[protocol]
        connection = " ".join(f"0100007F:{number:04X}" for number in ports)
        assert connection in Path("/proc/net/tcp").read_text()
