"""Popmaps in tables: what MySQL, PostgreSQL, ODBC and SQLite have in common."""

import re
import ssl
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import closing
from os import fsdecode
from typing import Any, ClassVar, NamedTuple

from perdition.failure import StartupError
from perdition.options.table import Options
from perdition.popmap import Destination, Query
from perdition.popmap.secret import secret
from perdition.popmap.server import ServerMap

COLON = re.compile(r":(?![^\[]*\])")
"""What divides the parts of an option: not the colons of an IPv6 address in brackets."""

SIMPLE_NAME = re.compile(r"[A-Za-z_]\w*")


class Table(NamedTuple):
    """The table, and how to get at it: the parts of ``map_library_opt``, in order."""

    hosts: str = "localhost"
    port: str = ""
    database: str = "dbPerdition"
    table: str = "tblPerdition"
    user: str = "perdition"
    password: str = "perdition"
    server_column: str = "servername"
    user_column: str = "user"
    port_column: str = "port"
    tls: str = ""
    """``tls``, or the file of the authorities that the server's certificate must come from."""

    @classmethod
    def parse(cls, text: str) -> "Table":
        """Read the parts, of which empty or missing ones have defaults; raises StartupError."""
        parts = COLON.split(text)
        names = cls._fields
        if len(parts) > len(names):
            raise StartupError(
                f"map_library_opt: it has {len(parts)} parts; give at the most these, with colons "
                f"in between: {', '.join(names)}"
            )
        given = {name: part for name, part in zip(names, parts, strict=False) if part}
        if not given.get("port", "0").isdecimal():
            raise StartupError("map_library_opt: the second part, the port, must be a number")
        if "password" in given:
            given["password"] = secret(given["password"])
        return cls(**given)

    @property
    def servers(self) -> list[str]:
        """The hosts, each of which is tried in turn."""
        return [host.strip().removeprefix("[").removesuffix("]") for host in self.hosts.split(",")]

    @property
    def authorities(self) -> str | None:
        """The file of those that may vouch for the server."""
        return ssl.get_default_verify_paths().cafile if self.tls == "tls" else self.tls


class SQLMap(ServerMap[Any]):
    """A table with a column for the user, one for the server, and perhaps one for the port."""

    errors: ClassVar[tuple[type[Exception], ...]]
    placeholder: ClassVar[str] = "%s"

    def __init__(self, table: Table, servers: Sequence[str], options: Options) -> None:
        super().__init__(servers, options)
        self.table = table
        self.statement = ""

    @abstractmethod
    def connect(self, server: str) -> Any:
        """Return a connection that commits by itself."""

    def user_column(self, connection: Any) -> str:
        """Return the user column's name, in quotes where it may be a word of the language."""
        return self.table.user_column

    def first_row(self, connection: Any, statement: str, key: str) -> Sequence[Any] | None:
        """Return the first row that a statement brings."""
        with closing(connection.cursor()) as cursor:
            cursor.execute(statement, (key,))
            row: Sequence[Any] | None = cursor.fetchone()
            return row

    def ask(self, connection: Any, query: Query) -> Destination | None:
        if not is_text(query.key):
            return None
        statement = self.statement or self.working_statement(connection)
        row = self.first_row(connection, statement, query.key)
        return self.destination(*map(text_of, row)) if row else None

    def working_statement(self, connection: Any) -> str:
        """Return the statement that looks a user up; a table may have no column for the port."""
        table = self.table
        where = f"FROM {table.table} WHERE {self.user_column(connection)} = {self.placeholder}"
        try:
            statement = f"SELECT {table.server_column}, {table.port_column} {where}"
            self.first_row(connection, statement, "")
        except self.errors:
            statement = f"SELECT {table.server_column} {where}"
            self.first_row(connection, statement, "")
        self.statement = statement
        return statement

    def destination(self, server: str, port: str = "") -> Destination:
        """Return what a row says; a port in the server's column is good, too."""
        found = Destination.parse(server, self.delimiter)
        if port:
            return Destination(found.server._replace(port=port), found.user)
        return found

    def disconnect(self, connection: Any) -> None:
        connection.close()

    def reopen(self) -> None:
        self.statement = ""
        super().reopen()


def quoted(name: str, quote: str) -> str:
    """Return a column's name in quotes, unless it is more than a plain name."""
    return f"{quote}{name}{quote}" if SIMPLE_NAME.fullmatch(name) else name


def is_text(key: str) -> bool:
    """Whether a key can be in a table at all: without NUL, and of characters only."""
    try:
        return b"\0" not in key.encode()
    except UnicodeEncodeError:
        return False


def text_of(value: Any) -> str:
    """Return a column's value as text; NULL is none."""
    if value is None:
        return ""
    return (fsdecode(value) if isinstance(value, bytes) else str(value)).strip()
