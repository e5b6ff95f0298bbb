"""A popmap in a table of an ODBC data source.

Some ODBC drivers have no time limit and hang if their server hangs, so they run in child processes.
"""

import re
from enum import IntEnum
from typing import Any

import pyodbc

from perdition.options.table import Options
from perdition.popmap.process_map import PYTHON, ProcessMap
from perdition.popmap.sql import SQLMap, Table, quoted

pyodbc.pooling = False  # ServerMap keeps connections; a pool could return a broken one

PLAIN = re.compile(r"[\w./:-]*")


class Case(IntEnum):
    """The case of unquoted names (SQL_IDENTIFIER_CASE; pyodbc does not define the values)."""

    UPPER = 1
    LOWER = 2


def open_map(options: Options) -> ProcessMap:
    """Open a map over ODBC; ``map_library_opt`` is a Table whose database is the data source."""
    table = Table.parse(options.map_library_opt)
    command = (*PYTHON, "perdition.popmap.backends.odbc_process")
    option = "\0".join([options.domain_delimiter, *table])
    return ProcessMap(table.database, command, option, options)


class ODBCTable(SQLMap):
    """A table of an ODBC data source, which defines the server."""

    errors = (pyodbc.Error, OSError)
    placeholder = "?"

    def connect(self, server: str) -> Any:
        attributes = {"DSN": server, "UID": self.table.user, "PWD": self.table.password}
        connection = pyodbc.connect(
            ";".join(f"{name}={attribute(value)}" for name, value in attributes.items()),
            autocommit=True,
        )
        connection.setdecoding(pyodbc.SQL_CHAR, encoding="utf-8")
        connection.setencoding(encoding="utf-8")
        return connection

    def user_column(self, connection: Any) -> str:
        """Return the column's name quoted, in the case of unquoted names."""
        name = self.table.user_column
        match connection.getinfo(pyodbc.SQL_IDENTIFIER_CASE):
            case Case.LOWER:
                name = name.lower()
            case Case.UPPER:
                name = name.upper()
        return quoted(name, connection.getinfo(pyodbc.SQL_IDENTIFIER_QUOTE_CHAR).strip())


def attribute(value: str) -> str:
    """Return a value for a connection string, in braces if needed; some drivers keep them."""
    return value if PLAIN.fullmatch(value) else "{" + value.replace("}", "}}") + "}"
