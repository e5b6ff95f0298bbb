"""makegdbm and makebdb: turn ``key:value`` lines into a database file, and back.

Used as ``makegdbm FILE < LINES`` and ``makegdbm --undo FILE > LINES``.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Protocol

from perdition.makedb.entries import Entry, entries


class Format(Protocol):
    """A kind of database file. Its methods raise OSError and ``Error``."""

    Error: type[Exception]

    def write(self, path: Path, found: Iterable[Entry]) -> None:
        """Write a new file over whatever is there."""

    def read(self, path: Path) -> Iterator[Entry]:
        """Yield what is in a file."""


class Gdbm:
    """Files of GNU dbm."""

    def __init__(self) -> None:
        self.gnu = import_module("dbm.gnu")
        self.Error: type[Exception] = self.gnu.error

    def write(self, path: Path, found: Iterable[Entry]) -> None:
        with self.gnu.open(str(path), "nf") as database:
            for key, value in found:
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

    def write(self, path: Path, found: Iterable[Entry]) -> None:
        with closing(self.db.DB()) as database:
            database.open(
                str(path), dbtype=self.db.DB_HASH, flags=self.db.DB_CREATE | self.db.DB_TRUNCATE
            )
            for key, value in found:
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
"""Each tool's format, and the package to install for it."""


def make(path: Path, kind: Format, found: Iterable[Entry]) -> None:
    """Write a new file and put it in its place at once: readers see the old one or the new one.

    Raises OSError and the format's Error.
    """
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    new = Path(name)
    try:
        kind.write(new, found)
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
    given = parser.parse_args(arguments)

    def complain(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr)

    wanted, package = FORMATS[name]
    try:
        kind = wanted()
    except ModuleNotFoundError as error:
        complain(f"there is no module {error.name}; install {package}")
        return os.EX_UNAVAILABLE
    try:
        if given.undo:
            for key, value in kind.read(given.file):
                sys.stdout.buffer.write(key + b":" + value + b"\n")
        else:
            make(given.file, kind, entries(sys.stdin.buffer, complain))
    except (OSError, kind.Error) as error:
        complain(f"{given.file}: {error.args[-1]}")
        return os.EX_IOERR
    return os.EX_OK
