"""Refusals of real servers, classified by response code (RFC 2449, 3206, 5530, 5804)."""

import re
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

PREFIX_LENGTH = 8
"""Of a password with more bytes, a server might repeat only a part."""


def refused(
    line: bytes,
    head: bytes,
    code: bytes,
    credentials: Credentials,
    untagged: bytes = b"",
    placeholder: bytes = REDACTED,
) -> Failure:
    """Return the failure for a real server's negative reply to a login.

    ``head`` is the start of the line, up to and including the response code; ``code`` is the
    code's first part, or what stands for it (b"": none). A reply that repeats the password loses
    its text for a ``placeholder``, because a password of the popmap must not reach the client.
    """
    if repeats_password(head, credentials):
        line = head.partition(b" ")[0] + b" " + placeholder
    elif repeats_password(line, credentials):
        line = head + b" " + placeholder
    if repeats_password(untagged, credentials):
        untagged = b""
    reply_for_log = fsdecode(line[:LOGGED_LENGTH])
    code = code.upper()
    if code in CREDENTIAL_CODES:
        return Rejected(f"the real server replied: {reply_for_log}", line, untagged)
    if code in PLAINTEXT_CODES:
        return MechanismUnavailable(f"the real server requires TLS: {reply_for_log}")
    return ServerRefused(reply_for_log, line, untagged)


def repeats_password(line: bytes, credentials: Credentials) -> bool:
    """Return whether a line contains the password, or its beginning, in a form that we sent."""
    password = credentials.password
    forms = (password, quote(password)[1:-1], sasl.encode_plain(credentials))
    return any(contains(line.lower(), form.lower()) for form in forms if form)


def contains(line: bytes, form: bytes) -> bool:
    """Return whether a line contains a text; a short one must be a separate word."""
    if len(form) >= PREFIX_LENGTH:
        return form[:PREFIX_LENGTH] in line
    return bool(re.search(rb"(?<![a-z0-9])%b(?![a-z0-9])" % re.escape(form), line))
