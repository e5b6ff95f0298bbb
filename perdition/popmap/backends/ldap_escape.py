"""Users' names in LDAP's names and filters."""

import re
from os import fsencode


def escaped(text: str) -> str:
    """Return a text as it may stand in a filter (RFC 4515) and in a name (RFC 4514) alike."""
    return re.sub(
        rb"[^0-9A-Za-z._-]", lambda found: b"\\%02x" % ord(found[0]), fsencode(text)
    ).decode()
