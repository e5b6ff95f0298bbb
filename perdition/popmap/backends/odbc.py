"""A popmap in a table of whatever an ODBC data source leads to.

Of the drivers, some wait for a hung server for as long as it hangs, and some refuse to hear of a
time limit: they run in processes of their own.
"""

import re
from enum import IntEnum
from typing import Any

import pyodbc

from perdition.options.table import Options
from perdition.popmap.child_process import PYTHON, ProcessMap
from perdition.popmap.sql import SQLMap, Table, quoted

pyodbc.pooling = False  # connections are kept here, and a broken one must not come back

PLAIN = re.compile(r"[\w./:-]*")


class Case(IntEnum):
    """How a data source takes names outside of quotes (ODBC's numbers; pyodbc has no names)."""

    UPPER = 1
    LOWER = 2


def open_map(options: Options) -> ProcessMap:
    """Open a map behind ODBC; ``map_library_opt`` is a Table whose database is the data source."""
    table = Table.parse(options.map_library_opt)
    command = (*PYTHON, "perdition.popmap.backends.odbc_process")
    told = "\0".join([options.domain_delimiter, *table])
    return ProcessMap(table.database, command, told, options)


class ODBCTable(SQLMap):
    """A table behind an ODBC data source, which says itself where its server is."""

    errors = (pyodbc.Error, OSError)
    placeholder = "?"

    def connect(self, server: str) -> Any:
        given = {"DSN": server, "UID": self.table.user, "PWD": self.table.password}
        connection = pyodbc.connect(
            ";".join(f"{name}={attribute(value)}" for name, value in given.items()),
            autocommit=True,
        )
        connection.setdecoding(pyodbc.SQL_CHAR, encoding="utf-8")
        connection.setencoding(encoding="utf-8")
        return connection

    def user_column(self, connection: Any) -> str:
        """Return the column's name in the data source's quotes and its case outside of quotes."""
        name = self.table.user_column
        match connection.getinfo(pyodbc.SQL_IDENTIFIER_CASE):
            case Case.LOWER:
                name = name.lower()
            case Case.UPPER:
                name = name.upper()
        return quoted(name, connection.getinfo(pyodbc.SQL_IDENTIFIER_QUOTE_CHAR).strip())


def attribute(value: str) -> str:
    """Return a value as a connection string has it; some drivers take needless braces for text."""
    return value if PLAIN.fullmatch(value) else "{" + value.replace("}", "}}") + "}"
