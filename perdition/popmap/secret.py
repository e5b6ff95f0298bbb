"""Passwords in a popmap's option: written there, or in a file so that no ``ps`` shows them."""

import re
from pathlib import Path
from urllib.parse import quote

from perdition.failure import StartupError

IN_URL = re.compile(r"(://[^/?#@:]*:)(@/[^@]*)@")


def secret(text: str) -> str:
    """Return a password; ``@`` and a full path stand for the first line of that file.

    Raises StartupError.
    """
    if not text.startswith("@/"):
        return text
    try:
        return Path(text[1:]).read_text(errors="surrogateescape").partition("\n")[0]
    except OSError as error:
        raise StartupError(
            f"map_library_opt: {text[1:]}: {error.strerror}; give a readable file with the password"
        ) from error


def url_with_secret(url: str) -> str:
    """Return a URL with its password, ``scheme://user:@/path@host``, read from that file.

    Raises StartupError.
    """
    return IN_URL.sub(lambda found: f"{found[1]}{quote(secret(found[2]), safe='')}@", url)
