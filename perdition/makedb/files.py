"""makegdbm and makebdb: convert ``key:value`` lines to a database file and back.

Used as ``makegdbm FILE < LINES`` and ``makegdbm --undo FILE > LINES``.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Protocol

from perdition import __version__
from perdition.makedb.entries import Entry, entries

UNREADABLE = 255
"""The status of perdition 2.2's tools if ``--undo`` cannot read the file."""


class Format(Protocol):
    """A database format. The methods raise OSError and ``Error``."""

    Error: type[Exception]

    def write(self, path: Path, content: Iterable[Entry]) -> None:
        """Create a file, or overwrite it."""

    def read(self, path: Path) -> Iterator[Entry]:
        """Yield the entries of a file."""


class Gdbm:
    """Files of GNU dbm."""

    def __init__(self) -> None:
        self.gnu = import_module("dbm.gnu")
        self.Error: type[Exception] = self.gnu.error

    def write(self, path: Path, content: Iterable[Entry]) -> None:
        with self.gnu.open(str(path), "nf") as database:
            for key, value in content:
                database[key] = value
            database.sync()

    def read(self, path: Path) -> Iterator[Entry]:
        with self.gnu.open(str(path), "ru") as database:
            key = database.firstkey()
            while key is not None:
                yield key, database[key]
                key = database.nextkey(key)


class Bdb:
    """Files of Berkeley DB; new ones are hashes."""

    def __init__(self) -> None:
        self.db = import_module("perdition.popmap.backends.bdb").db
        self.Error: type[Exception] = self.db.DBError

    def write(self, path: Path, content: Iterable[Entry]) -> None:
        with closing(self.db.DB()) as database:
            database.open(
                str(path), dbtype=self.db.DB_HASH, flags=self.db.DB_CREATE | self.db.DB_TRUNCATE
            )
            for key, value in content:
                database.put(key, value)

    def read(self, path: Path) -> Iterator[Entry]:
        with closing(self.db.DB()) as database:
            database.open(str(path), dbtype=self.db.DB_UNKNOWN, flags=self.db.DB_RDONLY)
            with closing(database.cursor()) as cursor:
                while entry := cursor.next():
                    yield entry


FORMATS: dict[str, tuple[type[Format], str]] = {
    "makegdbm": (Gdbm, "python3-gdbm"),
    "makebdb": (Bdb, "python3-bsddb3"),
}
"""Each tool's format, and the package with its library."""


def make(path: Path, database: Format, content: Iterable[Entry]) -> None:
    """Write a new file and rename it, so that readers see either the old or the new one.

    Raises OSError and the format's Error.
    """
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    new = Path(name)
    try:
        database.write(new, content)
        new.chmod(mode)
        new.replace(path)
    except BaseException:
        new.unlink()
        raise


def main(name: str, arguments: list[str]) -> int:
    """Run the tool of that name; returns the status."""
    parser = argparse.ArgumentParser(
        prog=name,
        allow_abbrev=False,
        description="Read key:value lines from standard input and write them to a database file.",
    )
    parser.add_argument(
        "-u", "--undo", action="store_true", help="write the file's entries to standard output"
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)

    def warn(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr)

    format_class, package = FORMATS[name]
    try:
        database = format_class()
    except ModuleNotFoundError as error:
        warn(f"no module {error.name}; install {package}")
        return os.EX_UNAVAILABLE
    if options.undo:
        return undo(options.file, database, warn)
    try:
        make(options.file, database, entries(sys.stdin.buffer, warn))
    except (OSError, database.Error) as error:
        warn(f"{options.file}: {error.args[-1]}")
        return os.EX_IOERR
    return os.EX_OK


def undo(path: Path, database: Format, warn: Callable[[str], None]) -> int:
    """Write a file's entries to standard output; return the status, as perdition 2.2 does."""
    empty = True
    try:
        for key, value in database.read(path):
            empty = False
            sys.stdout.buffer.write(key + b":" + value + b"\n")
    except (OSError, database.Error) as error:
        warn(f"{path}: {error.args[-1]}")
        return UNREADABLE
    if empty:
        warn(f"{path}: no entries")
    return os.EX_OK
