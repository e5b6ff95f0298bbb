"""The default popmap: a gdbm file, as written by makegdbm."""

import dbm.gnu
import os
from functools import cache

from perdition.files import SYSCONFDIR
from perdition.options.table import Options
from perdition.popmap import Destination, Query
from perdition.popmap.files import Database, DatabaseMap

READ_UNLOCKED = "ru"
"""A reader's lock would keep perdition 2.2's makegdbm from writing while the map is open."""


def open_map(options: Options) -> "GdbmMap":
    """Open a gdbm map; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.gdbm.db"
    return GdbmMap(path, options.domain_delimiter)


class GdbmMap(DatabaseMap):
    """A gdbm file.

    gdbm writes through a memory map. On tmpfs that changes none of the file's attributes, while an
    open database has old entries in its cache: there it is opened again for each lookup (60 µs).
    """

    errors = (dbm.gnu.error,)

    shows_writes = True

    def open_database(self) -> Database:
        folder = os.path.dirname(os.path.realpath(self.path))
        self.shows_writes = not may_be_in_memory(os.stat(folder).st_dev)
        return dbm.gnu.open(self.path, READ_UNLOCKED)

    def lookup(self, query: Query) -> Destination | None:
        found = super().lookup(query)
        if not self.shows_writes:
            self.close()
        return found


@cache
def may_be_in_memory(device: int) -> bool:
    """Tell whether a file system is a tmpfs, or an overlay, which may be on one: proc(5) mountinfo.

    Its number is a folder's st_dev: on an overlay that of a file may be another.
    """
    number = f"{os.major(device)}:{os.minor(device)}".encode()
    with open("/proc/self/mountinfo", "rb") as mounts:
        return any(
            line.split()[2] == number
            and line.partition(b" - ")[2].startswith((b"tmpfs ", b"overlay "))
            for line in mounts
        )
