"""Paths of the administrator's files, and how they are read."""

import os
import stat
from contextlib import suppress

from perdition.failure import StartupError

SYSCONFDIR = "/etc/perdition"
START_DIRECTORY = os.getcwd()
"""The directory that relative paths start from, even after a daemon has changed its own."""


def read_file(path: str) -> bytes:
    """Return the content of a file; raises StartupError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}; expected a readable file") from error


def reread_file(path: str) -> bytes:
    """Return the content of a file, but never block on a pipe; raises StartupError."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise StartupError(
                f"{path}: a pipe can be read at start only; use a file if it has to be reloaded"
            )
    return read_file(path)
