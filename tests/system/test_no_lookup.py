"""no_lookup: names that would have to be looked up are reported."""

from pathlib import Path

import pytest

from tests.support.client_connection import PROTOCOLS, connect_and_read_greeting
from tests.support.perdition import Perditions, popmap
from tests.system.conftest import PASSWORDS


@pytest.mark.parametrize("option", ["outgoing_server mail.example", "outgoing_port imap2"])
def test_name_in_an_option_is_reported_at_start(option: str, perditions: Perditions) -> None:
    name, value = option.split()
    proxy = perditions.start("imap4", "-M", "", "--no_lookup", f"--{name}", value)
    proxy.wait_for_log(f"no_lookup: {option}: expected .*a port number; logins there will fail")


def test_numbers_in_options_are_not_reported(perditions: Perditions) -> None:
    servers = ("-s", "192.0.2.1,[2001:db8::1]:143", "--outgoing_port", "143")
    proxy = perditions.start("imap4", "-M", "", "--no_lookup", *servers)
    with connect_and_read_greeting(proxy.address, "imap4") as client:
        proxy.wait_for_log(f"Connect: {client.own_address}->")
    assert not proxy.logged("no_lookup: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("server", ["mail.example", "127.0.0.1:imap2"])
def test_name_from_the_popmap_is_in_the_log_of_the_failed_login(
    protocol: str, server: str, folder: Path, perditions: Perditions
) -> None:
    file = popmap(folder / "popmap.db", {"joe": server})
    proxy = perditions.start(protocol, "-M", "gdbm", "-m", file, "--no_lookup")
    with connect_and_read_greeting(proxy.address, protocol) as client:
        for command, _ in PROTOCOLS[protocol].credentials("joe", PASSWORDS["joe"]):
            client.send(command + b"\r\n")
        proxy.wait_for_log(
            f"{client.own_address}->.*: Could not connect to server: {server}.*: "
            "no_lookup is set: expected an IP address and a port number"
        )
        proxy.wait_for_log(f'Auth: {client.own_address}->.* server="{server}.* status="failed: ')
