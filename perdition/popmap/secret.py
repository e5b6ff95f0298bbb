"""Passwords in ``map_library_opt``: literal, or in a file, which ``ps`` does not show."""

import re
from pathlib import Path
from urllib.parse import quote

from perdition.failure import StartupError

IN_URL = re.compile(r"(://[^/?#@:]*:)(@/[^@]*)@")


READ_AS_ROOT: dict[str, str] = {}
"""Passwords read at startup: after SIGHUP, without root, the files may be unreadable."""


def secret(text: str) -> str:
    """Return a password; ``@`` and an absolute path mean the first line of that file.

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
                f"map_library_opt: {path}: {error.strerror}; "
                "expected a readable file with the password"
            ) from error
    return READ_AS_ROOT[path]


def url_with_secret(url: str) -> str:
    """Return a URL with its password, ``scheme://user:@/path@host``, read from that file.

    Raises StartupError.
    """
    return IN_URL.sub(lambda match: f"{match[1]}{quote(secret(match[2]), safe='')}@", url)
