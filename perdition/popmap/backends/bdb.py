"""A popmap in a Berkeley DB file, as written by makebdb."""

from contextlib import closing
from typing import Any

from perdition.files import SYSCONFDIR
from perdition.options.table import Options
from perdition.popmap.file_map import Database, DatabaseMap

try:  # uses the distribution's libdb, so other programs can read the same files
    from bsddb3 import db
except ModuleNotFoundError:
    from berkeleydb import db


def open_map(options: Options) -> "BerkeleyMap":
    """Open a Berkeley DB map; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.bdb.db"
    return BerkeleyMap(path, options.domain_delimiter)


class BerkeleyMap(DatabaseMap):
    """A btree, hash or any other Berkeley DB file with keys."""

    errors = (db.DBError,)

    def open_database(self, path: str) -> Database:
        opened = db.DB()
        opened.open(path, dbtype=db.DB_UNKNOWN, flags=db.DB_RDONLY)
        database: Database = opened
        return database

    def has_entries(self, database: Any) -> bool:
        with closing(database.cursor()) as cursor:
            return cursor.first() is not None
