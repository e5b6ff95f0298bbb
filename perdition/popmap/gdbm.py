"""The default popmap: a gdbm file, as makegdbm writes it."""

import dbm.gnu
from os import fsdecode, fsencode
from typing import Any

from perdition.failure import MapUnavailable
from perdition.options import Options
from perdition.popmap import SYSCONFDIR, Destination, FileMap, Query

READ_UNLOCKED = "ru"
"""A lock held as long as the file is open would keep makegdbm from writing it."""


def open_map(options: Options) -> "GdbmMap":
    """Open a gdbm map; ``map_library_opt`` is its file."""
    path = options.map_library_opt or str(SYSCONFDIR / "popmap.gdbm.db")
    return GdbmMap(path, options.domain_delimiter)


class GdbmMap(FileMap):
    """Keys and values without trailing NUL."""

    def __init__(self, path: str, delimiter: str) -> None:
        super().__init__(path, delimiter)
        self.database: Any = None

    def load(self) -> None:
        try:
            self.database = dbm.gnu.open(self.path, READ_UNLOCKED)  # noqa: SIM115 - kept open
        except dbm.gnu.error as error:
            raise ValueError(f"no gdbm file, or a damaged one ({error})") from error

    def lookup(self, query: Query) -> Destination | None:
        self.refresh()
        try:
            value = self.database.get(fsencode(query.key))
        except dbm.gnu.error as error:
            self.close()
            raise MapUnavailable(f"popmap {self.path}: damaged ({error})") from error
        return Destination.parse(fsdecode(value), self.delimiter) if value is not None else None

    def close(self) -> None:
        super().close()
        if self.database is not None:
            self.database.close()
            self.database = None
