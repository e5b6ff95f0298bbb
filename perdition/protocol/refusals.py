"""Refusals of real servers, classified by response code (RFC 2449, 3206, 5530, 5804)."""

import re
from base64 import b64encode
from collections.abc import Callable
from os import fsdecode

from perdition.failure import Failure, MechanismUnavailable, Rejected, ServerRefused
from perdition.protocol import sasl
from perdition.protocol.dialogue import REDACTED, Credentials
from perdition.protocol.strings import quote

CREDENTIAL_CODES = (b"", b"AUTH", b"AUTHENTICATIONFAILED")
"""Codes of wrong credentials, which are also assumed if there is no code."""

PLAINTEXT_CODES = (b"PRIVACYREQUIRED", b"ENCRYPT-NEEDED")
"""Codes of a server that requires TLS, which the site must configure, not the client."""

LOGGED_LENGTH = 200
"""Maximum bytes of a reply that are logged."""

FORWARDED_LENGTH = 1000
"""Maximum bytes of a line that is forwarded to the client."""

CONTROL_CHARACTER = re.compile("[\0-\x1f\x7f-\x9f\udc80-\udc9f]")
"""One of ASCII or of ISO 8859-1, in UTF-8 or as a byte that is not valid in UTF-8."""

PREFIX_LENGTH = 8
"""Of a password with more bytes, a server might repeat only a part."""


def refused(
    line: bytes,
    head: bytes,
    code: bytes,
    credentials: Credentials,
    untagged: bytes = b"",
    placeholder: bytes = REDACTED,
    forwardable: Callable[[bytes, bytes], bytes] | None = None,
) -> Failure:
    """Return the failure for a real server's negative reply to a login.

    ``head`` is the start of the line, up to and including the response code; ``code`` is the
    code's first part, or what stands for it (b"": none). A reply that repeats the password loses
    its text for a ``placeholder``, because a password of the popmap must not reach the client.
    ``forwardable`` returns a line, given with its head, as it may be sent to the client.
    """
    if repeats_password(head, credentials):
        head = head.partition(b" ")[0]
        line = head + b" " + placeholder
    elif repeats_password(line, credentials):
        line = head + b" " + placeholder
    if repeats_password(untagged, credentials):
        untagged = b""
    line = (forwardable or forwardable_line)(line, head)
    reply_for_log = fsdecode(line[:LOGGED_LENGTH])
    code = code.upper()
    if code in CREDENTIAL_CODES:
        return Rejected(f"the real server replied: {reply_for_log}", line, untagged)
    if code in PLAINTEXT_CODES:
        return MechanismUnavailable(f"the real server requires TLS: {reply_for_log}")
    return ServerRefused(reply_for_log, line, untagged)


def refused_greeting(
    line: bytes,
    head: bytes,
    code: bytes,
    temporary: bytes,
    forwardable: Callable[[bytes, bytes], bytes] | None = None,
) -> Failure:
    """Return the failure for a real server that refuses the connection in its greeting.

    It has not seen the credentials: another server may be tried, and a reply that could be taken
    for wrong credentials is sent with ``temporary`` as its head.
    """
    if code.upper() in CREDENTIAL_CODES:
        line, head = temporary + line[len(head) :], temporary
    line = (forwardable or forwardable_line)(line, head)
    failure = ServerRefused(fsdecode(line[:LOGGED_LENGTH]), line)
    failure.detail = f"the real server refused the connection: {fsdecode(line[:LOGGED_LENGTH])}"
    failure.try_next_server = True  # type: ignore[misc]  # only of this one
    return failure


def forwardable_line(line: bytes, head: bytes, limit: int = FORWARDED_LENGTH) -> bytes:
    """Return a reply without control characters and of limited length.

    A response code that would be cut is removed.
    """
    if len(head) > limit:
        line = head.partition(b" ")[0] + line[len(head) :]
    return printable_text(line, limit)


def printable_text(text: bytes, limit: int) -> bytes:
    """Replace control characters by blanks, and cut a text between characters of UTF-8."""
    end = limit
    while end < len(text) and limit - end < 3 and text[end] & 0xC0 == 0x80:
        end -= 1
    shown = text[:end].decode(errors="surrogateescape")
    return CONTROL_CHARACTER.sub(" ", shown).encode(errors="surrogateescape")


def repeats_password(line: bytes, credentials: Credentials) -> bool:
    """Return whether a line contains the password, or its beginning, as it is or encoded."""
    password = credentials.password
    encoded = b64encode(password).rstrip(b"=")
    forms = (password, quote(password)[1:-1], encoded, sasl.encode_plain(credentials))
    return any(contains(line.lower(), form.lower()) for form in forms if form)


def contains(line: bytes, form: bytes) -> bool:
    """Return whether a line contains a text; a short one must be a separate word."""
    if len(form) >= PREFIX_LENGTH:
        return form[:PREFIX_LENGTH] in line
    return bool(re.search(rb"(?<![a-z0-9])%b(?![a-z0-9])" % re.escape(form), line))
