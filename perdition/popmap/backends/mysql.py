"""A popmap in a table of MySQL or MariaDB."""

from pathlib import Path
from typing import Any

import pymysql

from perdition.options.table import Options
from perdition.popmap.server_tls import client_context
from perdition.popmap.sql import SQLMap, Table, quoted

LOCAL_SOCKET = Path("/run/mysqld/mysqld.sock")
"""Used for ``localhost``, as by MySQL's own programs."""
DEFAULT_PORT = 3306


def open_map(options: Options) -> "MySQLMap":
    """Open a map in MySQL or MariaDB; ``map_library_opt`` is a Table."""
    table = Table.parse(options.map_library_opt)
    return MySQLMap(table, table.servers, options)


class MySQLMap(SQLMap):
    """A table of MySQL or MariaDB."""

    # RuntimeError: an authentication method that needs a package that is not installed.
    errors = (pymysql.err.MySQLError, OSError, RuntimeError, UnicodeError)

    def connect(self, server: str) -> Any:
        table = self.table
        address: dict[str, Any] = {"host": server, "port": int(table.port or DEFAULT_PORT)}
        if server.startswith("/"):
            address = {"unix_socket": server}
        elif server == "localhost" and not table.port and LOCAL_SOCKET.is_socket():
            address = {"unix_socket": str(LOCAL_SOCKET)}
        connection = pymysql.connect(
            **address,
            user=table.user,
            password=table.password,
            database=table.database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=self.server_timeout,
            read_timeout=self.server_timeout,
            write_timeout=self.server_timeout,
            ssl=client_context(table.authorities) if table.tls else None,
        )
        if table.tls and not connection._secure:
            connection.close()  # older versions of PyMySQL continue without TLS
            raise OSError("the server does not offer TLS")
        return connection

    def user_column(self, connection: Any) -> str:
        return quoted(self.table.user_column, "`")
