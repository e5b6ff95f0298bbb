"""What a client reads before perdition closes its session."""

from collections.abc import Callable

import pytest

from tests.support.client_connection import LoggedInClient
from tests.support.perdition import PerditionProcess, Perditions
from tests.support.real_server import RealServer
from tests.system.conftest import PASSWORDS

NOTICES = {
    "imap4": rb"\* BYE [^\r\n]+\r\n",
    "managesieve": rb'BYE (?:\(TRYLATER\) )?"[^\r\n"]+"\r\n',
    "pop3": b"",
}


def time_out(proxy: PerditionProcess) -> None:
    """Wait until the idle timeout has expired."""
    proxy.wait_for_log("idle timeout")


def drain(proxy: PerditionProcess) -> None:
    """Stop perdition; its drain timeout is short."""
    assert proxy.terminate() == 0


@pytest.mark.parametrize("protocol", NOTICES)
@pytest.mark.parametrize(
    ("options", "end"), [(("--timeout", "1"), time_out), (("--drain_timeout", "1"), drain)]
)
@pytest.mark.parametrize("uses", [False, True])
def test_client_is_told_why_its_session_ends(
    protocol: str,
    options: tuple[str, str],
    end: Callable[[PerditionProcess], None],
    uses: bool,
    small_server: RealServer,
    perditions: Perditions,
) -> None:
    proxy = perditions.start(protocol, "-M", "", "-s", small_server.server(protocol), *options)
    with LoggedInClient(proxy.address, protocol, "joe", PASSWORDS["joe"]) as client:
        if uses:
            client.use()
        end(proxy)
        client.read_until(NOTICES[protocol] + rb"\Z")
        assert client.read_to_end() == b""
