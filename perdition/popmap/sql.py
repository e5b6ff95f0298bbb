"""The base of popmaps in SQL tables: MySQL, PostgreSQL, ODBC and SQLite."""

import re
import ssl
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import closing
from os import fsdecode
from typing import Any, ClassVar, NamedTuple

from perdition.endpoint import MAX_PORT
from perdition.failure import StartupError
from perdition.options.table import Options
from perdition.options.values import is_number
from perdition.popmap import Destination, Query
from perdition.popmap.secret import secret
from perdition.popmap.server import ServerMap

COLON = re.compile(r":(?![^\[]*\])")
"""Separates the parts of an option: a colon outside of brackets, which are for IPv6 addresses."""

HOST = re.compile(r"[^\[\]]*|\[[^\[\]]+\]")
"""A name or address, which may be in brackets."""

SIMPLE_NAME = re.compile(r"[A-Za-z_]\w*")

UNKNOWN_COLUMN_CODES = {"1054", "42703", "42S22", "S0022"}
"""MySQL's number; the SQLSTATEs of PostgreSQL, ODBC 3 and ODBC 2."""

UNKNOWN_COLUMN = re.compile(
    r"(no such|unknown|invalid|undefined) column|column .* does not exist", re.IGNORECASE
)


class Table(NamedTuple):
    """The table and how to reach it: the parts of ``map_library_opt``, in order."""

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
    """``tls``, or the file of the CA certificates for the server's certificate."""

    @classmethod
    def parse(cls, text: str) -> "Table":
        """Read the parts; empty and missing ones get defaults. Raises StartupError."""
        parts = COLON.split(text)
        names = cls._fields
        if len(parts) > len(names):
            raise StartupError(
                f"map_library_opt: {len(parts)} parts; expected at most {len(names)}, separated "
                f"by colons: {', '.join(names)}"
            )
        present = {name: part for name, part in zip(names, parts, strict=False) if part}
        port = present.get("port", "1")
        if not (is_number(port) and 0 < int(port[:6]) <= MAX_PORT):
            raise StartupError(
                f"map_library_opt: port (the second part): expected a number up to {MAX_PORT}"
            )
        if not all(HOST.fullmatch(host.strip()) for host in present.get("hosts", "").split(",")):
            raise StartupError(
                "map_library_opt: host (the first part): expected a name or an address; "
                "an IPv6 address in brackets, for example [::1]"
            )
        if "password" in present:
            present["password"] = secret(present["password"])
        return cls(**present)

    @property
    def servers(self) -> list[str]:
        """The hosts, in the order in which they are tried."""
        return [host.strip().removeprefix("[").removesuffix("]") for host in self.hosts.split(",")]

    @property
    def authorities(self) -> str | None:
        """The file of the CA certificates."""
        return ssl.get_default_verify_paths().cafile if self.tls == "tls" else self.tls


class SQLMap(ServerMap[Any]):
    """A table with a column for the user, one for the server, and optionally one for the port."""

    errors: ClassVar[tuple[type[Exception], ...]]
    placeholder: ClassVar[str] = "%s"

    def __init__(self, table: Table, servers: Sequence[str], options: Options) -> None:
        super().__init__(servers, options)
        self.table = table
        self.statement = ""

    @abstractmethod
    def connect(self, server: str) -> Any:
        """Return a connection in autocommit mode."""

    def user_column(self, connection: Any) -> str:
        """Return the user column's name, quoted if it may be a reserved word."""
        return self.table.user_column

    def first_row(self, connection: Any, statement: str, *key: str) -> Sequence[Any] | None:
        """Return the first row of a statement's result."""
        with closing(connection.cursor()) as cursor:
            cursor.execute(statement, key)
            row: Sequence[Any] | None = cursor.fetchone()
            return row

    def ask(self, connection: Any, query: Query) -> Destination | None:
        if not is_text(query.key):
            return None
        statement = self.statement or self.prepare_statement(connection)
        row = self.first_row(connection, statement, query.key)
        return self.destination(*map(text_of, row)) if row else None

    def prepare_statement(self, connection: Any) -> str:
        """Return the statement for a lookup; it leaves out a port column that does not exist."""
        table = self.table
        where = f"FROM {table.table} WHERE {self.user_column(connection)} = {self.placeholder}"
        try:
            statement = f"SELECT {table.server_column}, {table.port_column} {where}"
            self.first_row(connection, statement, "")
        except self.errors as error:
            if not is_unknown_column(error):
                raise
            statement = f"SELECT {table.server_column} {where}"
            self.first_row(connection, statement, "")
        self.statement = statement
        return statement

    def destination(self, server: str, port: str = "") -> Destination:
        """Return a row's destination; the server's column may contain the port."""
        destination = Destination.parse(server, self.delimiter)
        if port:
            return Destination(destination.server._replace(port=port), destination.user)
        return destination

    def disconnect(self, connection: Any) -> None:
        connection.close()

    def reopen(self) -> None:
        self.statement = ""
        super().reopen()


def is_unknown_column(error: Exception) -> bool:
    """Whether an error says that a column does not exist.

    By MySQL's number or an SQLSTATE, which do not depend on the language, or by the text.
    """
    codes = {str(error.args[0]) if error.args else "", str(getattr(error, "sqlstate", ""))}
    return bool(codes & UNKNOWN_COLUMN_CODES or UNKNOWN_COLUMN.search(str(error)))


def quoted(name: str, quote: str) -> str:
    """Return a column's name in quotes, unless it is an expression."""
    return f"{quote}{name}{quote}" if SIMPLE_NAME.fullmatch(name) else name


def is_text(key: str) -> bool:
    """Whether a key can be in a table: valid UTF-8 without NUL."""
    try:
        return b"\0" not in key.encode()
    except UnicodeEncodeError:
        return False


def text_of(value: Any) -> str:
    """Return a column's value as text; NULL is an empty text."""
    if value is None:
        return ""
    return (fsdecode(value) if isinstance(value, bytes) else str(value)).strip()
