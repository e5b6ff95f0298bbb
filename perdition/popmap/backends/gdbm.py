"""The default popmap: a gdbm file, as written by makegdbm."""

import dbm.gnu
import os
import struct
from typing import Any

from perdition.files import SYSCONFDIR
from perdition.options.table import DEFAULTS, Options
from perdition.popmap import Destination, Query
from perdition.popmap.file_map import Database, DatabaseMap

READ_UNLOCKED = "ru"
"""A reader's lock would keep perdition 2.2's makegdbm from writing while the map is open."""

HEADER = struct.Struct("=I28xq")
"""The magic number and the number of bytes in use, in files of 64-bit systems."""
WIDE_MAGIC = (0x13579ACF, 0x13579AD1)
"""The standard and the extended format."""


def open_map(options: Options) -> "GdbmMap":
    """Open a gdbm map; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.gdbm.db"
    by_default = not options.map_library_opt and options.map_library == DEFAULTS["map_library"]
    return GdbmMap(path, options.domain_delimiter, by_default=by_default)


class GdbmMap(DatabaseMap):
    """A gdbm file.

    ``by_default`` means that no option names the map. If the file does not exist, there is no
    popmap, and no user is found until it is created.
    """

    errors = (dbm.gnu.error,)
    writes_through_memory_map = True

    def __init__(self, path: str, delimiter: str, *, by_default: bool = False) -> None:
        super().__init__(path, delimiter)
        self.may_be_missing = by_default and is_missing(self.path)
        """Until the first file is loaded."""
        if self.may_be_missing:
            self.start_notice = f"no popmap: {self.path} does not exist and no option names another"

    def open_database(self, path: str) -> Database:
        refuse_truncated(path)
        return dbm.gnu.open(path, READ_UNLOCKED)

    def has_entries(self, database: Any) -> bool:
        return database.firstkey() is not None

    def probe(self) -> None:
        if not self.has_no_file():
            super().probe()

    def has_no_file(self) -> bool:
        """Whether there is no popmap: no option names one, and the file has never existed."""
        return self.may_be_missing and self.content is None and is_missing(self.path)

    def lookup(self, query: Query) -> Destination | None:
        if self.has_no_file():
            return None
        return super().lookup(query)


def refuse_truncated(path: str) -> None:
    """Raise ValueError if the end of a file is missing, which gdbm notices for some keys only."""
    with open(path, "rb") as file:
        header = file.read(HEADER.size)
        size = os.fstat(file.fileno()).st_size
    if len(header) == HEADER.size:
        magic, next_block = HEADER.unpack(header)
        if magic in WIDE_MAGIC and size < next_block:
            raise ValueError(f"truncated: {size} of {next_block} bytes")


def is_missing(path: str) -> bool:
    """Whether a file certainly does not exist."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
