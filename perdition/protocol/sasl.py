"""SASL PLAIN: RFC 4616."""

from base64 import b64decode, b64encode
from binascii import Error
from os import fsdecode, fsencode

from perdition.protocol.dialogue import Credentials


class BadMessage(ValueError):
    """A client's message is not valid for its mechanism; the text is for the client."""


def decode_plain(message: bytes) -> Credentials:
    """Decode ``authorisation NUL user NUL password`` in base64; raises BadMessage.

    The user must not be empty. Whether the password may be empty is up to the real server.
    """
    try:
        authorisation, user, password = b64decode(message, validate=True).split(b"\0")
    except (Error, ValueError) as error:
        raise BadMessage("expected a PLAIN message in base64") from error
    if not user:
        raise BadMessage("expected a user name")
    return Credentials(fsdecode(user), password, fsdecode(authorisation))


def encode_plain(credentials: Credentials) -> bytes:
    """Return the message that ``decode_plain`` reads."""
    authorisation, user = fsencode(credentials.authorisation), fsencode(credentials.user)
    return b64encode(b"\0".join((authorisation, user, credentials.password)))
