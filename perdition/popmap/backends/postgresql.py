"""A popmap in a table of PostgreSQL."""

import select
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from perdition.options.table import Options
from perdition.popmap.sql import SQLMap, Table, quoted

SHORTEST_CONNECT_SECONDS = 2
"""What libpq takes for the shortest time in which a server can be expected to answer."""


def open_map(options: Options) -> "PostgreSQLMap":
    """Open a map in PostgreSQL; ``map_library_opt`` is a Table."""
    table = Table.parse(options.map_library_opt)
    return PostgreSQLMap(table, table.servers, options)


class PostgreSQLMap(SQLMap):
    """A table of PostgreSQL."""

    errors = (psycopg.Error, OSError)
    placeholder = "$1"

    def connect(self, server: str) -> "psycopg.Connection[Any]":
        table = self.table
        tls: dict[str, Any] = {}
        if table.tls:
            tls = {"sslmode": "verify-full", "sslrootcert": table.authorities}
        return psycopg.connect(
            host=server,
            port=table.port or None,
            dbname=table.database,
            user=table.user,
            password=table.password,
            connect_timeout=max(SHORTEST_CONNECT_SECONDS, int(self.patience)),
            client_encoding="utf8",
            autocommit=True,
            **tls,
        )

    def user_column(self, connection: Any) -> str:
        """Return the column's name in quotes, because ``user`` is a function; outside of quotes
        PostgreSQL takes names in lower case.
        """
        return quoted(self.table.user_column.lower(), '"')

    def first_row(self, connection: Any, statement: str, key: str) -> Sequence[Any] | None:
        """Return the first row that a statement brings; raises TimeoutError.

        psycopg's own cursors wait for ever for a server that hangs.
        """
        wire = connection.pgconn
        wire.send_query_params(statement.encode(), [key.encode()])
        deadline = time.monotonic() + self.patience
        while wire.is_busy():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([wire.socket], [], [], left)[0]:
                raise TimeoutError("no answer in time")
            wire.consume_input()
        result = wire.get_result()
        while wire.get_result():  # the end, which has come with the answer
            pass
        if result.status != ExecStatus.TUPLES_OK:
            raise psycopg.DatabaseError(result.error_message.decode(errors="replace"))
        if not result.ntuples:
            return None
        return [result.get_value(0, column) for column in range(result.nfields)]
