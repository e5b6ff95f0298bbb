"""perditiondb_*_makedb: convert ``key:value`` lines to commands that create a popmap on a server.

The output is input for the server's own client, so the administrator can review it:
``perditiondb_mysql_makedb < LINES | mysql``.
"""

import argparse
import base64
import re
import sys
from collections.abc import Iterable, Iterator
from os import fsencode
from typing import NamedTuple, Protocol

from perdition import __version__
from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.makedb.entries import entries
from perdition.popmap import Destination
from perdition.popmap.ldap_escape import escaped
from perdition.popmap.secret import secret


class User(NamedTuple):
    """A line: the key, the server, and the user name there."""

    key: str
    server: Endpoint
    user: str


class Language(Protocol):
    """The input language of a kind of server."""

    description: str
    """For ``--help``: what the tool writes, and for which client."""

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this language."""

    def write(self, users: Iterable[User], arguments: argparse.Namespace) -> Iterator[str]:
        """Yield the statements or records that create and fill the map."""


class SQL:
    """SQL that all data sources understand."""

    description = "Write SQL that creates a popmap from key:value lines, for isql -b DATA_SOURCE."
    user_column = '"user"'
    text_type = "VARCHAR(255)"
    begin: str | None = None
    commit: str | None = None

    def options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--table", default="tblPerdition", help="default: %(default)s")

    def write(self, users: Iterable[User], arguments: argparse.Namespace) -> Iterator[str]:
        yield from self.prepare(arguments)
        yield (
            f"CREATE TABLE {arguments.table} ({self.user_column} {self.text_type} NOT NULL "
            "PRIMARY KEY, servername VARCHAR(255) NOT NULL, port VARCHAR(32));"
        )
        if self.begin:
            yield self.begin
        for key, server, user in users:
            address = f"{user}{arguments.delimiter}{server.host}" if user else server.host
            values = (self.text(key), self.text(address), self.text(server.port))
            yield (
                f"INSERT INTO {arguments.table} ({self.user_column}, servername, port) "
                f"VALUES ({', '.join(values)});"
            )
        if self.commit:
            yield self.commit
        yield from self.permit(arguments)

    def prepare(self, arguments: argparse.Namespace) -> Iterator[str]:
        """Yield the statements before CREATE TABLE."""
        yield from ()

    def permit(self, arguments: argparse.Namespace) -> Iterator[str]:
        """Yield the statements that allow perdition to read the table."""
        yield from ()

    def text(self, value: str) -> str:
        """Return an SQL literal; NULL for an empty value."""
        return "'" + value.replace("'", "''") + "'" if value else "NULL"


def account_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a database with its own accounts."""
    parser.add_argument("--user", default="perdition", help="perdition's account (%(default)s)")
    parser.add_argument(
        "--password",
        type=secret,
        help="also create the account, with this password; @/PATH: the first line of a file",
    )


class MySQL(SQL):
    """SQL for MySQL and MariaDB."""

    description = "Write SQL that creates a popmap from key:value lines, for mysql."
    user_column = "`user`"
    # User names are case-sensitive, as in all other popmaps.
    text_type = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    begin = "START TRANSACTION;"
    commit = "COMMIT;"

    def options(self, parser: argparse.ArgumentParser) -> None:
        super().options(parser)
        account_options(parser)
        parser.add_argument("--database", default="dbPerdition", help="default: %(default)s")
        parser.add_argument("--client", default="localhost", help="where perdition runs")

    def prepare(self, arguments: argparse.Namespace) -> Iterator[str]:
        yield "SET NAMES utf8mb4;"
        yield f"CREATE DATABASE IF NOT EXISTS {arguments.database};"
        yield f"USE {arguments.database};"
        yield f"DROP TABLE IF EXISTS {arguments.table};"

    def permit(self, arguments: argparse.Namespace) -> Iterator[str]:
        if arguments.password is not None:
            account = f"{self.text(arguments.user)}@{self.text(arguments.client)}"
            yield f"CREATE USER IF NOT EXISTS {account};"
            yield f"ALTER USER {account} IDENTIFIED BY {self.text(arguments.password)};"
            yield f"GRANT SELECT ON {arguments.database}.{arguments.table} TO {account};"

    def text(self, value: str) -> str:
        return super().text(value.replace("\\", "\\\\"))


class PostgreSQL(SQL):
    """SQL for PostgreSQL."""

    description = (
        "Write SQL that creates a popmap from key:value lines, for psql -d dbPerdition. "
        "The database must exist: createdb dbPerdition."
    )
    begin = None  # prepare() begins the transaction
    commit = "COMMIT;"

    def options(self, parser: argparse.ArgumentParser) -> None:
        super().options(parser)
        account_options(parser)

    def prepare(self, arguments: argparse.Namespace) -> Iterator[str]:
        yield "SET client_encoding TO 'UTF8';"
        yield "SET standard_conforming_strings TO on;"
        yield "BEGIN;"
        yield f"DROP TABLE IF EXISTS {arguments.table};"

    def permit(self, arguments: argparse.Namespace) -> Iterator[str]:
        if arguments.password is not None:
            name = '"' + arguments.user.replace('"', '""') + '"'
            yield (
                f"DO $$BEGIN CREATE ROLE {name} LOGIN; EXCEPTION WHEN duplicate_object THEN END$$;"
            )
            yield f"ALTER ROLE {name} PASSWORD {self.text(arguments.password)};"
            yield f"GRANT SELECT ON {arguments.table} TO {name};"


class SQLite(SQL):
    """SQL for SQLite."""

    description = "Write SQL that creates a popmap from key:value lines, for sqlite3 FILE."
    begin = None  # prepare() begins the transaction
    commit = "COMMIT;"

    def prepare(self, arguments: argparse.Namespace) -> Iterator[str]:
        yield "BEGIN;"
        yield f"DROP TABLE IF EXISTS {arguments.table};"


class LDIF:
    """LDIF for a directory with perdition's schema."""

    description = "Write LDIF that creates a popmap from key:value lines, for ldapadd."

    def options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--base",
            default="ou=mailbox,dc=nodomain",
            help="the parent of the entries (%(default)s)",
        )

    def write(self, users: Iterable[User], arguments: argparse.Namespace) -> Iterator[str]:
        name, _, value = arguments.base.partition(",")[0].partition("=")
        yield self.record(arguments.base, [("objectClass", "organizationalUnit"), (name, value)])
        for key, server, user in users:
            attributes = [
                ("objectClass", "perditionPopmap"),
                ("uid", key),
                ("username", user),
                ("mailhost", server.host),
                ("port", server.port),
            ]
            yield self.record(f"uid={escaped(key)},{arguments.base}", attributes)

    def record(self, name: str, attributes: Iterable[tuple[str, str]]) -> str:
        lines = [self.line(*pair) for pair in [("dn", name), *attributes] if pair[1]]
        return "\n".join(lines) + "\n"

    def line(self, attribute: str, value: str) -> str:
        """Return an attribute's line, in base64 if it is not SAFE."""
        if SAFE.fullmatch(value):
            return f"{attribute}: {value}"
        return f"{attribute}:: {base64.b64encode(fsencode(value)).decode()}"


SAFE = re.compile(r"[!-9;=-~]([ -~]*[!-~])?")
"""Values that do not need base64 in LDIF (RFC 2849)."""


LANGUAGES: dict[str, type[Language]] = {
    "perditiondb_mysql_makedb": MySQL,
    "perditiondb_postgresql_makedb": PostgreSQL,
    "perditiondb_odbc_makedb": SQL,
    "perditiondb_sqlite_makedb": SQLite,
    "perditiondb_ldap_makedb": LDIF,
}


def main(name: str, arguments: list[str]) -> int:
    """Run the tool of that name; returns the status."""
    language = LANGUAGES[name]()
    parser = argparse.ArgumentParser(
        prog=name, allow_abbrev=False, description=language.description
    )
    parser.add_argument(
        "--delimiter", default="@", help="separates user and server in a value (%(default)s)"
    )
    language.options(parser)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def warn(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr)

    def users() -> Iterator[User]:
        for key, value in entries(sys.stdin.buffer, warn):
            try:
                text, destination = key.decode(), value.decode()
            except UnicodeDecodeError:
                warn(f"{key!r}: expected UTF-8, skipped")
            else:
                parsed = Destination.parse(destination, options.delimiter)
                yield User(text, parsed.server, parsed.user)

    try:
        options = parser.parse_args(arguments)
    except StartupError as error:
        parser.error(str(error))
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    for piece in language.write(users(), options):
        print(piece)
    return 0
