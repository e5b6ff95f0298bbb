"""The base classes of popmaps in files."""

import os
from abc import abstractmethod
from collections.abc import Hashable
from os import fsdecode, fsencode
from typing import ClassVar, Protocol

from perdition.failure import MapUnavailable, StartupError
from perdition.files import START_DIRECTORY
from perdition.popmap import Destination, PopMap, Query, one_line


def signature(path: str) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written; raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class FileMap(PopMap):
    """A map in a file, which is loaded again when the file changes."""

    blocks = False

    def __init__(self, path: str, delimiter: str) -> None:
        self.path = os.path.join(START_DIRECTORY, path)
        self.delimiter = delimiter
        self.signature: tuple[int, ...] = ()

    @abstractmethod
    def load(self) -> None:
        """Open the file; raises OSError, or ValueError for its content."""

    def refresh(self) -> None:
        """Load the file if it has changed; raises MapUnavailable."""
        try:
            now = signature(self.path)
            if now != self.signature:
                self.close()
                self.load()
                self.signature = now
        except (OSError, ValueError) as error:
            self.close()
            raise MapUnavailable(f"popmap {self.path}: {one_line(error)}") from error

    def probe(self) -> None:
        try:
            self.refresh()
        except MapUnavailable as failure:
            raise StartupError(f"{failure.detail}; see map_library_opt") from failure
        finally:
            self.close()

    def cache_key(self, query: Query) -> Hashable:
        return query.key

    def reopen(self) -> None:
        self.close()

    def close(self) -> None:
        self.signature = ()


class Database(Protocol):
    """An open file of keys and values."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def close(self) -> object: ...


class DatabaseMap(FileMap):
    """A map in a database file of keys and values, without trailing NULs."""

    errors: ClassVar[tuple[type[Exception], ...]]
    """What the database library raises for a damaged file."""

    database: Database | None = None

    @abstractmethod
    def open_database(self) -> Database:
        """Open the file for reading; raises OSError and ``errors``."""

    def probe(self) -> None:
        """Only check that the file is readable: opening a damaged one may crash the process."""
        try:
            open(self.path, "rb").close()
        except OSError as error:
            raise StartupError(
                f"popmap {self.path}: {one_line(error)}; see map_library_opt"
            ) from error

    def load(self) -> None:
        try:
            self.database = self.open_database()
        except self.errors as error:
            raise ValueError(f"wrong format or damaged ({one_line(error)})") from error

    def lookup(self, query: Query) -> Destination | None:
        self.refresh()
        assert self.database is not None
        try:
            value = self.database.get(fsencode(query.key))
        except self.errors as error:
            self.close()
            raise MapUnavailable(f"popmap {self.path}: damaged ({one_line(error)})") from error
        return Destination.parse(fsdecode(value), self.delimiter) if value is not None else None

    def close(self) -> None:
        super().close()
        if self.database is not None:
            self.database.close()
            self.database = None
