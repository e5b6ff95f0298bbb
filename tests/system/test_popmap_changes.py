"""A popmap that is edited while perdition runs, and one with mistakes."""

import imaplib
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.perdition import PerditionProcess, Perditions
from tests.support.real_server import RealServer
from tests.support.wait import until
from tests.system.conftest import PASSWORDS


def log_in(proxy: PerditionProcess, user: str) -> str:
    """OK, or what the server says to a user whose login fails."""
    client = imaplib.IMAP4(*proxy.address, timeout=20)
    try:
        return client.login(user, PASSWORDS["joe"])[0]
    except imaplib.IMAP4.error as error:
        return str(error)
    finally:
        with suppress(imaplib.IMAP4.error, OSError):
            client.logout()


@pytest.fixture
def rules(folder: Path, small_server: RealServer) -> Path:
    """A popmap with one rule, for joe."""
    path = folder / "popmap.re"
    path.write_text(f"^joe$: {small_server.server('imap4')}\n")
    return path


def test_mistake_in_an_edited_popmap_is_logged_and_disturbs_nobody(
    rules: Path, perditions: Perditions
) -> None:
    proxy = perditions.start("imap4", "-M", "posix_regex", "-m", rules, "--workers", "1")
    assert log_in(proxy, "joe") == "OK"

    rules.write_text("^ann$: 192.0.2.1\n^(joe: 192.0.2.1\n")
    kept = f"popmap {rules}: line 2: unmatched"
    until(lambda: log_in(proxy, "joe") == "OK" and proxy.logged(kept), proxy.evidence)
    assert log_in(proxy, "joe") == "OK"
    assert len(proxy.logged(kept)) == 1

    os.kill(proxy.pid, signal.SIGHUP)
    until(lambda: len(proxy.logged(kept)) == 2, proxy.evidence)
    assert log_in(proxy, "joe") == "OK"


def test_empty_popmap_sends_nobody_to_the_default_server(
    rules: Path, perditions: Perditions, small_server: RealServer
) -> None:
    """outgoing_server is unreachable: no user may be sent there while the popmap is rewritten."""
    proxy = perditions.start(
        "imap4", "-M", "posix_regex", "-m", rules, "-s", "192.0.2.1", "--workers", "1"
    )
    assert log_in(proxy, "joe") == "OK"
    rules.write_text("")
    until(lambda: log_in(proxy, "joe") == "OK" and proxy.logged("no entries"), proxy.evidence)
    rules.write_text(f"^joe$: {small_server.server('imap4')} # again\n")
    os.kill(proxy.pid, signal.SIGHUP)
    assert log_in(proxy, "joe") == "OK"
    assert not proxy.logged(r' server="192\.0\.2\.1')


def test_invalid_regex_popmap_prevents_the_start(rules: Path, folder: Path) -> None:
    rules.write_text("^joe$: mx\n^(joe: mx\n")
    options = ("-M", "posix_regex", "-m", rules)
    done = subprocess.run(
        PerditionProcess("imap4", folder, *options).command,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode not in (0, os.EX_SOFTWARE)
    assert f"popmap {rules}: line 2: unmatched (" in done.stderr


@pytest.mark.skipif(
    Path("/etc/perdition/popmap.gdbm.db").exists(), reason="this machine has a popmap"
)
def test_site_without_any_popmap_uses_outgoing_server(
    perditions: Perditions, small_server: RealServer
) -> None:
    """As in perdition 2.2, where the missing file sent everybody there."""
    proxy = perditions.start("imap4", "-s", small_server.server("imap4"))
    assert log_in(proxy, "joe") == "OK"
    assert len(proxy.logged("no popmap: /etc/perdition/popmap.gdbm.db does not exist")) == 1
