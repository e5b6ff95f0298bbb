"""Popmaps: who is whose real server. A file for each kind, and here what they have in common."""

import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from perdition.endpoint import Endpoint
from perdition.failure import MapUnavailable, StartupError

SYSCONFDIR = Path("/etc/perdition")
START_DIRECTORY = Path.cwd()
"""Where relative names begin, also when a daemon has left it."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What a popmap knows of a user: the server, and the name there ("": the user's own)."""

    server: Endpoint
    user: str = ""

    @classmethod
    def parse(cls, value: str, delimiter: str) -> "Destination":
        """Read ``[user<delimiter>]host[:port]``; the delimiter's last occurrence divides."""
        user, _, server = value.rpartition(delimiter)
        return cls(Endpoint.parse(server.strip()), user.strip())


class PopMap(ABC):
    """A popmap in its four verbs: open (which is to make one), look up, reopen, close."""

    @abstractmethod
    def lookup(self, key: str) -> Destination | None:
        """Return what the map has for a key; raises MapUnavailable if it cannot be asked."""

    @abstractmethod
    def reopen(self) -> None:
        """Forget what is open or remembered, as after SIGHUP."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""


class NoMap(PopMap):
    """The map of a site without one: nobody is in it."""

    def lookup(self, key: str) -> Destination | None:
        return None

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


class FileMap(PopMap):
    """A map in a file that is opened anew when another file has taken its place."""

    def __init__(self, path: str, delimiter: str) -> None:
        self.path = str(START_DIRECTORY / path)
        self.delimiter = delimiter
        self.signature: tuple[int, ...] = ()

    @abstractmethod
    def load(self) -> None:
        """Open the file; raises OSError, or ValueError that says what is wrong in it."""

    def refresh(self) -> None:
        """Open the file if it is not the one that is open; raises MapUnavailable."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - a tenth of what a Path costs, each login
            signature = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if signature != self.signature:
                self.close()
                self.load()
                self.signature = signature
        except (OSError, ValueError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise MapUnavailable(f"popmap {self.path}: {reason}") from error

    def reopen(self) -> None:
        self.close()

    def close(self) -> None:
        self.signature = ()


LIBRARY = re.compile(r"(?:.*/)?libperditiondb_(\w+)\.so[\d.]*")

KINDS = ("gdbm", "posix_regex")
"""What ``--map_library`` takes. Each kind is a module, imported only when it is used."""


def open_map(library: str, option: str, delimiter: str) -> PopMap:
    """Open the popmap that a site has; raises StartupError for a kind that there is not."""
    if not library:
        return NoMap()
    named = LIBRARY.fullmatch(library)
    kind = named[1] if named else library
    if kind not in KINDS:
        raise StartupError(
            f"map_library {library}: no such kind of popmap here; give one of "
            f"{', '.join(KINDS)}, or nothing"
        )
    module = import_module(f"perdition.popmap.{kind}")
    popmap: PopMap = module.open_map(option, delimiter)
    return popmap
