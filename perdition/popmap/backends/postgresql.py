"""A popmap in a table of PostgreSQL."""

import select
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus

from perdition.options.table import Options
from perdition.popmap.sql import SQLMap, Table, quoted

MIN_CONNECT_SECONDS = 2
"""libpq's minimum for ``connect_timeout``."""


def open_map(options: Options) -> "PostgreSQLMap":
    """Open a map in PostgreSQL; ``map_library_opt`` is a Table."""
    table = Table.parse(options.map_library_opt)
    return PostgreSQLMap(table, table.servers, options)


class PostgreSQLMap(SQLMap):
    """A table of PostgreSQL."""

    errors = (psycopg.Error, OSError, UnicodeError)
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
            connect_timeout=max(MIN_CONNECT_SECONDS, int(self.server_timeout)),
            client_encoding="utf8",
            autocommit=True,
            **tls,
        )

    def user_column(self, connection: Any) -> str:
        """Return the column's name quoted, because ``user`` is a reserved word, and in lower case,
        as PostgreSQL folds unquoted names.
        """
        return quoted(self.table.user_column.lower(), '"')

    def first_row(self, connection: Any, statement: str, *key: str) -> Sequence[Any] | None:
        """Return the first row of a statement's result; raises TimeoutError.

        psycopg's cursors have no time limit.
        """
        pgconn = connection.pgconn
        pgconn.send_query_params(statement.encode(), [value.encode() for value in key])
        deadline = time.monotonic() + self.server_timeout
        while pgconn.is_busy():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pgconn.socket], [], [], left)[0]:
                raise TimeoutError("no answer in time")
            pgconn.consume_input()
        result = pgconn.get_result()
        while pgconn.get_result():  # the terminating None
            pass
        if result.status != ExecStatus.TUPLES_OK:
            error = psycopg.DatabaseError(result.error_message.decode(errors="replace"))
            error.sqlstate = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
            raise error
        if not result.ntuples:
            return None
        return [result.get_value(0, column) for column in range(result.nfields)]
