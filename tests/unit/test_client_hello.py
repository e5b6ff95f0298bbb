"""What a ClientHello offers by ALPN, as real clients send it, and as nobody should."""

import ssl
from collections.abc import Sequence
from contextlib import suppress

import pytest

from perdition.net.client_hello import offered_protocols

RECORD_HEADER = 5


def hello(protocols: Sequence[str], host: str | None = "mail.example") -> bytes:
    """The ClientHello of a client that offers these protocols, without its record's header."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host).do_handshake()
    return outgoing.read()[RECORD_HEADER:]


@pytest.mark.parametrize("host", ["mail.example", None])
@pytest.mark.parametrize("protocols", [[], ["imap"], ["h2", "http/1.1"], ["x" * 255, "imap"]])
def test_offer_of_a_real_client(protocols: list[str], host: str | None) -> None:
    assert offered_protocols(hello(protocols, host)) == [name.encode() for name in protocols]


def test_hello_without_extensions_offers_nothing() -> None:
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    assert offered_protocols(b"\x01" + len(body).to_bytes(3) + body) == []


def test_end_anywhere_is_told() -> None:
    whole = hello(["imap"])
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="too short"):
            offered_protocols(whole[:end])


@pytest.mark.parametrize("octet", [0, 1, 0x7F, 0xFF])
def test_damage_is_an_error_or_another_offer(octet: int) -> None:
    """Nothing but a ValueError comes out of it, and no end is missed."""
    whole = hello(["imap"])
    for place in range(len(whole)):
        damaged = whole[:place] + bytes([octet]) + whole[place + 1 :]
        with suppress(ValueError):
            assert all(isinstance(name, bytes) for name in offered_protocols(damaged))


def test_other_message_is_no_hello() -> None:
    with pytest.raises(ValueError, match="no ClientHello"):
        offered_protocols(b"\x02" + hello(["imap"])[1:])
