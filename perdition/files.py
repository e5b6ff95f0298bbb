"""Paths of the administrator's files, and how they are read."""

import os
import stat
from contextlib import suppress

from perdition.failure import StartupError

STDIN, STDERR = 0, 2
SYSCONFDIR = "/etc/perdition"


def current_directory() -> str:
    """Return the current directory; "" if it has been deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""


START_DIRECTORY = current_directory()
"""What relative paths are relative to, also after a daemon has changed its directory."""


def absolute_path(path: str) -> str:
    """Return a path of ``map_library_opt`` as an absolute one; raises StartupError."""
    if not (START_DIRECTORY or os.path.isabs(path)):
        raise StartupError(
            f"map_library_opt {path}: perdition was started in a deleted directory; "
            "expected an absolute path"
        )
    return os.path.join(START_DIRECTORY, path)


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
