"""The default popmap: a gdbm file, as written by makegdbm."""

import dbm.gnu

from perdition.files import SYSCONFDIR
from perdition.options.table import Options
from perdition.popmap.files import Database, DatabaseMap

READ_UNLOCKED = "ru"
"""A reader's lock would keep perdition 2.2's makegdbm from writing while the map is open."""


def open_map(options: Options) -> "GdbmMap":
    """Open a gdbm map; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.gdbm.db"
    return GdbmMap(path, options.domain_delimiter)


class GdbmMap(DatabaseMap):
    """A gdbm file."""

    errors = (dbm.gnu.error,)

    def open_database(self) -> Database:
        return dbm.gnu.open(self.path, READ_UNLOCKED)
