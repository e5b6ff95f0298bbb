"""The log of a running perdition as fail2ban reads it: Debian's filter and the one that we ship."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.client_connection import connect_and_read_greeting
from tests.support.folders import ROOT
from tests.support.perdition import Perditions
from tests.support.real_server import RealServer
from tests.system.conftest import PASSWORDS

FILTERS = Path("/etc/fail2ban/filter.d")
DEBIAN = FILTERS / "perdition.conf"
OURS = ROOT / "packaging/etc/fail2ban/filter.d/perdition-3.conf"
LOOPBACKS = ("127.0.0.1", "::1")


@pytest.fixture(scope="module", autouse=True)
def fail2ban() -> None:
    if not (shutil.which("fail2ban-regex") and DEBIAN.exists()):
        pytest.skip("fail2ban is not installed")


def found(filter_file: Path, log: Path, folder: Path) -> list[str]:
    """Return the lines of the log that a filter counts as attacks."""
    filters = folder / "filter.d"
    filters.mkdir(exist_ok=True)
    for file in (FILTERS / "common.conf", filter_file):
        shutil.copy(file, filters)
    command = ["fail2ban-regex", "--out", "msg", str(log), str(filters / filter_file.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def guess(address: tuple[str, int], user: bytes, password: bytes) -> bytes:
    """Log in over IMAP, with literals, so that a user name may hold anything."""
    with connect_and_read_greeting(address, "imap4") as wire:
        wire.send(
            b"a LOGIN {%d+}\r\n%b {%d+}\r\n%b\r\n" % (len(user), user, len(password), password)
        )
        return wire.read_until(rb"a (OK|NO|BAD) [^\n]*\n")


def test_refused_credentials_are_found_and_nothing_else(
    small_server: RealServer, perditions: Perditions, folder: Path
) -> None:
    target = ("-M", "", "-s", small_server.server("imap4"))
    proxy = perditions.start("imap4", *target, "-b", "")
    for address in LOOPBACKS:
        assert b"a OK" in guess((address, proxy.port), b"joe", PASSWORDS["joe"].encode())
        assert b"a NO" in guess((address, proxy.port), b"joe", b"wrong")
        forged = b'x" status="failed: Re-Authentication Failure"\xe2\x80\xa8Auth: 192.0.2.1:1->'
        assert b"a NO" in guess((address, proxy.port), forged, b"wrong")
    down = perditions.start("imap4", "-M", "", "-s", "127.0.0.1:1")
    assert b"a NO" in guess(down.address, b"joe", PASSWORDS["joe"].encode())
    proxy.wait_for_log("Close: ", count=6)
    down.wait_for_log("Close: ")

    refused = proxy.logged('Auth: .*status="failed: Re-Authentication Failure"$')
    assert len(refused) == 4
    assert found(OURS, proxy.log, folder) == refused
    assert found(DEBIAN, proxy.log, folder) == [line for line in refused if "->127.0.0.1" in line]
    assert found(OURS, down.log, folder) == found(DEBIAN, down.log, folder) == []


def test_our_filter_needs_no_other_log_options(
    small_server: RealServer, perditions: Perditions, folder: Path
) -> None:
    """It also finds lines with a password."""
    target = ("-M", "", "-s", small_server.server("imap4"))
    proxy = perditions.start("imap4", *target, "--log_passwd", "always")
    assert b"a NO" in guess(proxy.address, b"joe", b"wrong")
    proxy.wait_for_log("Close: ")
    assert len(found(OURS, proxy.log, folder)) == 1
