"""A popmap in a table of an SQLite file."""

import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdition.failure import StartupError
from perdition.files import SYSCONFDIR, absolute_path
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query
from perdition.popmap.file_map import SETTLE_SECONDS, Signature
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
    file = absolute_path(path or f"{SYSCONFDIR}/popmap.sqlite")
    return SQLiteMap(Table(**present), [file], options)


class SQLiteMap(SQLMap):
    """A table of an SQLite file; a lookup may have to wait while the file is written.

    Transactions isolate lookups from a write that is in progress. A file that replaces the one in
    use is used once it has the table with rows; until then the old file stays open. For that
    reason all lookups share one connection.
    """

    errors = (sqlite3.Error,)
    placeholder = "?"

    def __init__(self, table: Table, servers: Sequence[str], options: Options) -> None:
        super().__init__(table, servers, options)
        self.path = servers[0]
        self.lock = threading.Lock()
        self.file: tuple[int, int] | None = None
        """Device and inode of the file in use."""
        self.refused: Signature | None = None
        """The signature of a replacement that is not usable yet."""
        self.retry_at = 0.0

    def lookup(self, query: Query) -> Destination | None:
        with self.lock:
            self.follow_file()
            return super().lookup(query)

    def follow_file(self) -> None:
        """Use the current file, unless it has replaced another one and is not usable yet."""
        now = None
        with suppress(OSError):
            now = Signature.of(self.path)
        if now and now[:2] == self.file:
            return
        if not now or not self.idle:
            self.reopen()
            self.file = now and now[:2]
        elif now != self.refused or time.monotonic() >= self.retry_at:
            self.try_to_switch(now)

    def try_to_switch(self, now: Signature) -> None:
        """Use another file, or keep the one in use and log why, once."""
        kept, statement = self.idle, self.statement
        self.idle, self.statement = [], ""
        try:
            connection = self.connect(self.path)
            self.idle.append(connection)
            self.prepare_statement(connection)
            if not self.first_row(connection, f"SELECT 1 FROM {self.table.table}"):
                raise sqlite3.DataError("no rows")
        except sqlite3.Error as error:
            self.close()
            self.idle, self.statement = kept, statement
            if not self.refused:
                self.log_warning(f"popmap {self.path}: {error}; keeping the previous file in use")
            self.refused, self.retry_at = now, time.monotonic() + SETTLE_SECONDS
        else:
            self.file, self.refused = now[:2], None
            for connection in kept:
                self.discard(connection)

    def reads_same_file(self, other: PopMap) -> bool:
        return isinstance(other, SQLiteMap) and other.options() == self.options()

    def options(self) -> tuple[object, ...]:
        """Return all that the options decide."""
        return self.path, self.table, self.delimiter, self.server_timeout

    def connect(self, server: str) -> Any:
        return sqlite3.connect(
            f"{Path(server).as_uri()}?mode=ro",
            uri=True,
            timeout=self.server_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
