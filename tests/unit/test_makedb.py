"""perditiondb_*_makedb: SQL and LDIF for the database servers' own clients."""

import io
import sys
from pathlib import Path

import pytest

from perdition.makedb.servers import LANGUAGES, main

LINES = b"joe:north\no'n\\eill:max@south:1143\n"


class MakeDBTool:
    """Runs a tool; a call returns the lines it wrote and its error output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def __call__(self, kind: str, lines: bytes, *options: str) -> tuple[list[str], str]:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        assert main(f"perditiondb_{kind}_makedb", [*options]) == 0
        written, complaints = self.capsys.readouterr()
        return written.splitlines(), complaints


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> MakeDBTool:
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    return MakeDBTool(monkeypatch, capsys)


def test_sql_creates_the_table_and_inserts_each_entry(written: MakeDBTool) -> None:
    table = (
        'CREATE TABLE users ("user" VARCHAR(255) NOT NULL PRIMARY KEY, '
        "servername VARCHAR(255) NOT NULL, port VARCHAR(32));"
    )
    insert = 'INSERT INTO users ("user", servername, port) VALUES'
    assert written("odbc", LINES, "--table", "users") == (
        [
            table,
            f"{insert} ('joe', 'north', NULL);",
            f"{insert} ('o''n\\eill', 'max@south', '1143');",
        ],
        "",
    )


def test_backslashes_are_escaped_for_mysql(written: MakeDBTool) -> None:
    lines, _ = written("mysql", LINES)
    assert next(line for line in lines if "eill" in line).endswith(
        "VALUES ('o''n\\\\eill', 'max@south', '1143');"
    )
    assert not [line for line in lines if "GRANT" in line]


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_account_is_created_with_the_right_to_read(
    written: MakeDBTool, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("it's\n")
    lines, _ = written(kind, b"", "--user", "reader", "--password", f"@{tmp_path}/password")
    assert any("'it''s'" in line for line in lines)
    assert any(line.startswith("GRANT SELECT ON ") and "reader" in line for line in lines)


def test_ldif_has_one_entry_per_user(written: MakeDBTool) -> None:
    lines, complaints = written("ldap", "joe:max@north:1143\nm\u00fcller, k:s\n".encode())
    assert complaints == ""
    assert lines == [
        "dn: ou=mailbox,dc=nodomain",
        "objectClass: organizationalUnit",
        "ou: mailbox",
        "",
        "dn: uid=joe,ou=mailbox,dc=nodomain",
        "objectClass: perditionPopmap",
        "uid: joe",
        "username: max",
        "mailhost: north",
        "port: 1143",
        "",
        "dn: uid=m\\c3\\bcller\\2c\\20k,ou=mailbox,dc=nodomain",
        "objectClass: perditionPopmap",
        "uid:: bcO8bGxlciwgaw==",
        "mailhost: s",
        "",
    ]


@pytest.mark.parametrize("name", LANGUAGES)
def test_lines_that_are_no_text_are_reported_and_skipped(written: MakeDBTool, name: str) -> None:
    kind = name.removeprefix("perditiondb_").removesuffix("_makedb")
    lines, complaints = written(kind, b"j\xf6e:north\nnocolon\nann:south\n")
    assert len([line for line in lines if "south" in line]) == 1
    assert not [line for line in lines if "north" in line]
    assert complaints.splitlines() == [
        f"{name}: b'j\\xf6e': expected UTF-8, skipped",
        f"{name}: line 2: expected key:value, skipped",
    ]
