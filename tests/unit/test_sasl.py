"""SASL PLAIN: the message that carries a user name and a password."""

from base64 import b64encode

import pytest

from perdition.protocol.dialogue import Credentials
from perdition.protocol.sasl import BadMessage, decode_plain, encode_plain


@pytest.mark.parametrize(
    ("message", "credentials"),
    [
        (b"\0joe\0secret", Credentials("joe", b"secret")),
        (b"ann\0joe\0secret", Credentials("joe", b"secret", "ann")),
        (b"\0joe\0", Credentials("joe", b"")),
        ("\0jöe\0gemüse".encode(), Credentials("jöe", "gemüse".encode())),
        (b"\xff\0\xfe\0\xfd", Credentials("\udcfe", b"\xfd", "\udcff")),
    ],
)
def test_message_is_decoded_and_encoded(message: bytes, credentials: Credentials) -> None:
    assert decode_plain(b64encode(message)) == credentials
    assert encode_plain(credentials) == b64encode(message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"=",
        b"!!!!",
        b"AGpvZQBzZWNyZXQ",
        b" AGpvZQBzZWNyZXQ=",
        "Ä".encode(),
        b64encode(b"joe"),
        b64encode(b"\0joe"),
        b64encode(b"\0joe\0secret\0more"),
        b64encode(b"\0\0secret"),
        b64encode(b"ann\0\0secret"),
    ],
)
def test_malformed_message_is_rejected(message: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_plain(message)
