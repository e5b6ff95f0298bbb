"""A popmap in a table of MySQL or MariaDB."""

from pathlib import Path
from typing import Any

import pymysql

from perdition.options import Options
from perdition.popmap.server_tls import client_context
from perdition.popmap.sql import SQLMap, Table, quoted

LOCAL_SOCKET = Path("/run/mysqld/mysqld.sock")
"""Where ``localhost`` is, as for MySQL's own programs."""
DEFAULT_PORT = 3306


def open_map(options: Options) -> "MySQLMap":
    """Open a map in MySQL or MariaDB; ``map_library_opt`` is a Table."""
    table = Table.parse(options.map_library_opt)
    return MySQLMap(table, table.servers, options)


class MySQLMap(SQLMap):
    """A table of MySQL or MariaDB."""

    # RuntimeError: a way to log in that PyMySQL cannot do with what is installed.
    errors = (pymysql.err.MySQLError, OSError, RuntimeError)

    def connect(self, server: str) -> Any:
        table = self.table
        where: dict[str, Any] = {"host": server, "port": int(table.port or DEFAULT_PORT)}
        if server.startswith("/"):
            where = {"unix_socket": server}
        elif server == "localhost" and not table.port and LOCAL_SOCKET.is_socket():
            where = {"unix_socket": str(LOCAL_SOCKET)}
        connection = pymysql.connect(
            **where,
            user=table.user,
            password=table.password,
            database=table.database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=self.patience,
            read_timeout=self.patience,
            write_timeout=self.patience,
            ssl=client_context(table.authorities) if table.tls else None,
        )
        if table.tls and not connection._secure:
            connection.close()  # older versions of PyMySQL go on where the server has no TLS
            raise OSError("the server has no TLS")
        return connection

    def user_column(self, connection: Any) -> str:
        return quoted(self.table.user_column, "`")
