"""Passwords in a popmap's option: written there, or in a file so that no ``ps`` shows them."""

import re
from pathlib import Path
from urllib.parse import quote

from perdition.failure import StartupError

IN_URL = re.compile(r"(://[^/?#@:]*:)(@/[^@]*)@")


READ_AS_ROOT: dict[str, str] = {}
"""What was read at the start: after a SIGHUP, perdition may not be able to read it any more."""


def secret(text: str) -> str:
    """Return a password; ``@`` and a full path stand for the first line of that file.

    Raises StartupError.
    """
    if not text.startswith("@/"):
        return text
    path = text[1:]
    try:
        READ_AS_ROOT[path] = Path(path).read_text(errors="surrogateescape").partition("\n")[0]
    except OSError as error:
        if not (isinstance(error, PermissionError) and path in READ_AS_ROOT):
            raise StartupError(
                f"map_library_opt: {path}: {error.strerror}; give a readable file with the password"
            ) from error
    return READ_AS_ROOT[path]


def url_with_secret(url: str) -> str:
    """Return a URL with its password, ``scheme://user:@/path@host``, read from that file.

    Raises StartupError.
    """
    return IN_URL.sub(lambda found: f"{found[1]}{quote(secret(found[2]), safe='')}@", url)
