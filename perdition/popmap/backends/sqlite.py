"""A popmap in a table of an SQLite file."""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdition.failure import StartupError
from perdition.files import START_DIRECTORY, SYSCONFDIR
from perdition.options.table import Options
from perdition.popmap import Destination, Query
from perdition.popmap.files import signature
from perdition.popmap.sql import SQLMap, Table


def open_map(options: Options) -> "SQLiteMap":
    """Open a map in SQLite.

    ``map_library_opt`` is ``file:table:servercolumn:usercolumn:portcolumn``; empty and missing
    parts get defaults. Raises StartupError.
    """
    path, *parts = options.map_library_opt.split(":")
    names = ("table", "server_column", "user_column", "port_column")
    if len(parts) > len(names):
        raise StartupError(
            "map_library_opt: too many parts; "
            "expected file:table:servercolumn:usercolumn:portcolumn"
        )
    present = {name: part for name, part in zip(names, parts, strict=False) if part}
    file = os.path.join(START_DIRECTORY, path or f"{SYSCONFDIR}/popmap.sqlite")
    return SQLiteMap(Table(**present), [file], options)


class SQLiteMap(SQLMap):
    """A table of an SQLite file; a lookup may have to wait while the file is written."""

    errors = (sqlite3.Error,)
    placeholder = "?"
    signature: tuple[int, ...] = ()

    def lookup(self, query: Query) -> Destination | None:
        """Look up a key; if the file was replaced, in the new file."""
        now: tuple[int, ...] = ()
        with suppress(OSError):
            now = signature(self.servers[0])
        if now != self.signature or not now:
            self.reopen()
            self.signature = now
        return super().lookup(query)

    def connect(self, server: str) -> Any:
        return sqlite3.connect(
            f"{Path(server).as_uri()}?mode=ro",
            uri=True,
            timeout=self.server_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
