"""Real clients read mail and scripts through perdition, each user from their own server."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.folders import public_folder
from tests.support.mail_clients import CLIENTS, ClientSettings
from tests.support.perdition import Perditions
from tests.support.sieve import SieveClient
from tests.system.conftest import PASSWORDS, TwoServers

# Each word is in the mail and script names of one user only.
WORDS = {"joe": "windward", "ann": "leeward"}


@pytest.fixture(scope="module")
def stocked(servers: TwoServers) -> TwoServers:
    """The servers, with a message and a script for each user."""
    for user, word in WORDS.items():
        server = servers.real_server(user)
        server.deliver(user, f"To: {user}\r\nSubject: {word}\r\n\r\nSails.\r\n".encode())
        scripts = SieveClient(socket.create_connection(("127.0.0.1", server.ports["managesieve"])))
        scripts.login(user, PASSWORDS[user])
        scripts.putscript(word, b"keep;\r\n")
        scripts.logout()
    return servers


@pytest.fixture(scope="module")
def in_front(stocked: TwoServers) -> Iterator[Perditions]:
    """A perdition for each protocol in front of them."""
    with public_folder() as folder, ExitStack() as stack:
        perditions = Perditions(folder, stack)
        for protocol in ("pop3", "imap4", "managesieve"):
            perditions.start(protocol, "-M", "gdbm", "-m", stocked.popmap(folder, protocol))
        yield perditions


@pytest.mark.parametrize("user", WORDS)
@pytest.mark.parametrize("name", CLIENTS)
def test_user_reads_their_own(
    name: str, user: str, stocked: TwoServers, in_front: Perditions, folder: Path
) -> None:
    """What the client reads has the user's word and not the other user's."""
    client = CLIENTS[name]
    if reason := client.missing():
        pytest.skip(reason)
    proxy = in_front.of(client.protocol)

    text = client.read(ClientSettings(proxy.port, user, PASSWORDS[user]), folder)

    assert [word for word in WORDS.values() if word in text] == [WORDS[user]], text
    server = stocked.real_server(user).server(client.protocol)
    proxy.wait_for_log(rf'Auth: .* authentication_id="{user}" server="{server}" .* status="ok"')
