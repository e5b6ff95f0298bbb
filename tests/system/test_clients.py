"""Real clients read real mail and scripts through perdition, each user from their own server."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import CLIENTS, Login
from tests.support.folders import public_folder
from tests.support.sieve import SieveClient
from tests.system.conftest import PASSWORDS, Proxies, Site

# One of these words is in whatever a user reads, and in nothing that the other one reads.
WORDS = {"joe": "windward", "ann": "leeward"}


@pytest.fixture(scope="module")
def stocked(site: Site) -> Site:
    """The site, with a message and a script for each user."""
    for user, word in WORDS.items():
        server = site.real_server(user)
        server.deliver(user, f"To: {user}\r\nSubject: {word}\r\n\r\nSails.\r\n".encode())
        scripts = SieveClient(socket.create_connection(("127.0.0.1", server.ports["managesieve"])))
        scripts.login(user, PASSWORDS[user])
        scripts.putscript(word, b"keep;\r\n")
        scripts.logout()
    return site


@pytest.fixture(scope="module")
def in_front(stocked: Site) -> Iterator[Proxies]:
    """A perdition for each protocol in front of the site."""
    with public_folder() as folder, ExitStack() as stack:
        proxies = Proxies(folder, stack)
        for protocol in ("pop3", "imap4", "managesieve"):
            proxies.start(protocol, "-M", "gdbm", "-m", stocked.popmap(folder, protocol))
        yield proxies


@pytest.mark.parametrize("user", WORDS)
@pytest.mark.parametrize("name", CLIENTS)
def test_user_reads_their_own(
    name: str, user: str, stocked: Site, in_front: Proxies, folder: Path
) -> None:
    """The user's word is in what the client reads, the other one's is not."""
    client = CLIENTS[name]
    if reason := client.missing():
        pytest.skip(reason)
    proxy = in_front.of(client.protocol)

    text = client.read(Login(proxy.port, user, PASSWORDS[user]), folder)

    assert [word for word in WORDS.values() if word in text] == [WORDS[user]], text
    server = stocked.real_server(user).server(client.protocol)
    proxy.wait_for_log(rf'Auth: .* authentication_id="{user}" server="{server}" .* status="ok"')
