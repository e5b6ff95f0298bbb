"""perditiondb_*_makedb: turn ``key:value`` lines into what sets a popmap up on a server.

What they write is for the server's own client, so that an administrator sees it first:
``perditiondb_mysql_makedb < LINES | mysql``.
"""

import argparse
import base64
import re
import sys
from collections.abc import Iterable, Iterator
from os import fsencode
from typing import NamedTuple, Protocol

from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.makedb.entries import entries
from perdition.popmap import Destination
from perdition.popmap.backends.ldap_escape import escaped
from perdition.popmap.secret import secret

Given = argparse.Namespace


class User(NamedTuple):
    """A line: the key, the server, and the name there."""

    key: str
    server: Endpoint
    user: str


class Language(Protocol):
    """What a kind of server is told in. Its text has one statement or record a piece."""

    says: str
    """What to do with what the tool writes."""

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def write(self, users: Iterable[User], given: Given) -> Iterator[str]:
        """Yield the pieces: how the map is made, and all that is in it."""


class SQL:
    """SQL as every data source understands it: a table, and a transaction with all its rows."""

    says = "Write SQL that makes a popmap of key:value lines, for isql -b DATA_SOURCE."
    user_column = '"user"'
    text_type = "VARCHAR(255)"
    begin: str | None = None
    commit: str | None = None

    def options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--table", default="tblPerdition", help="default: %(default)s")

    def write(self, users: Iterable[User], given: Given) -> Iterator[str]:
        yield from self.prepare(given)
        yield (
            f"CREATE TABLE {given.table} ({self.user_column} {self.text_type} NOT NULL "
            "PRIMARY KEY, servername VARCHAR(255) NOT NULL, port VARCHAR(32));"
        )
        if self.begin:
            yield self.begin
        for key, server, user in users:
            address = f"{user}{given.delimiter}{server.host}" if user else server.host
            values = (self.text(key), self.text(address), self.text(server.port))
            yield (
                f"INSERT INTO {given.table} ({self.user_column}, servername, port) "
                f"VALUES ({', '.join(values)});"
            )
        if self.commit:
            yield self.commit
        yield from self.permit(given)

    def prepare(self, given: Given) -> Iterator[str]:
        """Yield what comes before the table."""
        yield from ()

    def permit(self, given: Given) -> Iterator[str]:
        """Yield what lets perdition read the table."""
        yield from ()

    def text(self, value: str) -> str:
        """Return a value as SQL has it; an empty one is NULL."""
        return "'" + value.replace("'", "''") + "'" if value else "NULL"


def account_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a database with accounts of its own."""
    parser.add_argument("--user", default="perdition", help="perdition's account (%(default)s)")
    parser.add_argument(
        "--password",
        type=secret,
        help="the account's password, to have the account made, too; @/PATH: a file's first line",
    )


class MySQL(SQL):
    """SQL for MySQL and MariaDB."""

    says = "Write SQL that makes a popmap of key:value lines, for mysql."
    user_column = "`user`"
    # User names differ in case here as in all other popmaps.
    text_type = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    begin = "START TRANSACTION;"
    commit = "COMMIT;"

    def options(self, parser: argparse.ArgumentParser) -> None:
        super().options(parser)
        account_options(parser)
        parser.add_argument("--database", default="dbPerdition", help="default: %(default)s")
        parser.add_argument("--client", default="localhost", help="where perdition runs")

    def prepare(self, given: Given) -> Iterator[str]:
        yield "SET NAMES utf8mb4;"
        yield f"CREATE DATABASE IF NOT EXISTS {given.database};"
        yield f"USE {given.database};"
        yield f"DROP TABLE IF EXISTS {given.table};"

    def permit(self, given: Given) -> Iterator[str]:
        if given.password is not None:
            account = f"{self.text(given.user)}@{self.text(given.client)}"
            yield f"CREATE USER IF NOT EXISTS {account};"
            yield f"ALTER USER {account} IDENTIFIED BY {self.text(given.password)};"
            yield f"GRANT SELECT ON {given.database}.{given.table} TO {account};"

    def text(self, value: str) -> str:
        return super().text(value.replace("\\", "\\\\"))


class PostgreSQL(SQL):
    """SQL for PostgreSQL."""

    says = (
        "Write SQL that makes a popmap of key:value lines, for psql -d dbPerdition. The database "
        "must be there: createdb dbPerdition."
    )
    begin = None  # the whole is one transaction
    commit = "COMMIT;"

    def options(self, parser: argparse.ArgumentParser) -> None:
        super().options(parser)
        account_options(parser)

    def prepare(self, given: Given) -> Iterator[str]:
        yield "SET client_encoding TO 'UTF8';"
        yield "SET standard_conforming_strings TO on;"
        yield "BEGIN;"
        yield f"DROP TABLE IF EXISTS {given.table};"

    def permit(self, given: Given) -> Iterator[str]:
        if given.password is not None:
            name = '"' + given.user.replace('"', '""') + '"'
            yield (
                f"DO $$BEGIN CREATE ROLE {name} LOGIN; EXCEPTION WHEN duplicate_object THEN END$$;"
            )
            yield f"ALTER ROLE {name} PASSWORD {self.text(given.password)};"
            yield f"GRANT SELECT ON {given.table} TO {name};"


class SQLite(SQL):
    """SQL for SQLite."""

    says = "Write SQL that makes a popmap of key:value lines, for sqlite3 FILE."
    begin = None  # the whole is one transaction
    commit = "COMMIT;"

    def prepare(self, given: Given) -> Iterator[str]:
        yield "BEGIN;"
        yield f"DROP TABLE IF EXISTS {given.table};"


class LDIF:
    """LDIF for a directory that has perdition's schema."""

    says = "Write LDIF that makes a popmap of key:value lines, for ldapadd."

    def options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--base",
            default="ou=mailbox,dc=nodomain",
            help="whose children the entries are (%(default)s)",
        )

    def write(self, users: Iterable[User], given: Given) -> Iterator[str]:
        name, _, value = given.base.partition(",")[0].partition("=")
        yield self.record(given.base, [("objectClass", "organizationalUnit"), (name, value)])
        for key, server, user in users:
            attributes = [
                ("objectClass", "perditionPopmap"),
                ("uid", key),
                ("username", user),
                ("mailhost", server.host),
                ("port", server.port),
            ]
            yield self.record(f"uid={escaped(key)},{given.base}", attributes)

    def record(self, name: str, attributes: Iterable[tuple[str, str]]) -> str:
        """Return an entry."""
        lines = [self.line(*pair) for pair in [("dn", name), *attributes] if pair[1]]
        return "\n".join(lines) + "\n"

    def line(self, attribute: str, value: str) -> str:
        """Return an attribute as LDIF has it: what is not plain text is in base64."""
        if SAFE.fullmatch(value):
            return f"{attribute}: {value}"
        return f"{attribute}:: {base64.b64encode(fsencode(value)).decode()}"


SAFE = re.compile(r"[!-9;=-~]([ -~]*[!-~])?")
"""What needs no base64 in LDIF (RFC 2849)."""


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
    parser = argparse.ArgumentParser(prog=name, allow_abbrev=False, description=language.says)
    parser.add_argument(
        "--delimiter", default="@", help="what divides user from server in a value (%(default)s)"
    )
    language.options(parser)
    complaints = 0

    def complain(text: str) -> None:
        nonlocal complaints
        complaints += 1
        print(f"{name}: {text}", file=sys.stderr)

    def users() -> Iterator[User]:
        for key, value in entries(sys.stdin.buffer, complain):
            try:
                text, destination = key.decode(), value.decode()
            except UnicodeDecodeError:
                complain(f"{key!r}: neither ASCII nor UTF-8, skipped")
            else:
                found = Destination.parse(destination, given.delimiter)
                yield User(text, found.server, found.user)

    try:
        given = parser.parse_args(arguments)
    except StartupError as error:
        parser.error(str(error))
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    for piece in language.write(users(), given):
        print(piece)
    return 0
