"""Escaping of user names in LDAP names and filters."""

import re
from os import fsencode


def escaped(text: str) -> str:
    """Escape a text for both filters (RFC 4515) and names (RFC 4514)."""
    return re.sub(
        rb"[^0-9A-Za-z._-]", lambda match: b"\\%02x" % ord(match[0]), fsencode(text)
    ).decode()
