"""A popmap in a Berkeley DB file, as makebdb writes it."""

from perdition.files import SYSCONFDIR
from perdition.options.table import Options
from perdition.popmap.files import Database, DatabaseMap

try:  # the distribution's: its files can be read by the distribution's other programs, too
    from bsddb3 import db
except ModuleNotFoundError:
    from berkeleydb import db


def open_map(options: Options) -> "BerkeleyMap":
    """Open a Berkeley DB map; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.bdb.db"
    return BerkeleyMap(path, options.domain_delimiter)


class BerkeleyMap(DatabaseMap):
    """A btree or hash file of Berkeley DB, or any of its kinds that has keys."""

    errors = (db.DBError,)

    def open_database(self) -> Database:
        opened = db.DB()
        opened.open(self.path, dbtype=db.DB_UNKNOWN, flags=db.DB_RDONLY)
        database: Database = opened
        return database
