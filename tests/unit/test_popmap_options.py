"""Map options: a malformed one ends in one clear line, never in an exception or a wrong lookup."""

import pytest

from perdition.endpoint import ConnectionEnds
from perdition.failure import MapUnavailable, StartupError
from perdition.options.table import Options
from perdition.popmap import PopMap, Query, kinds

ENDS = ConnectionEnds("192.0.2.1", 4242, "192.0.2.9", 143)
LIBRARIES = {"ldap": "ldap", "redis": "redis", "mysql": "pymysql", "postgresql": "psycopg"}


def open_map(kind: str, option: str) -> PopMap:
    if kind in LIBRARIES:
        pytest.importorskip(LIBRARIES[kind])
    return kinds.open_map(Options(map_library=kind, map_library_opt=option))


MALFORMED = [
    ("ldap", "localhost", "expected an LDAP URL"),
    ("ldap", "ldap://h/dc=x????", "expected an LDAP URL"),
    ("ldap", "ldap://h/dc=x??all", "scope 'all'"),
    ("ldap", "ldap://h:abc/dc=x", "server 1"),
    ("ldap", "ldap://[::1/dc=x", "server 1"),
    ("ldap", "ldap://h1 h:99999/dc=x", "server 2"),
    ("ldap", f"ldap://h:{'9' * 5000}/dc=x", "server 1"),
    ("ldap", "ldap://h/dc=x???(uid=%s", "filter"),
    ("ldap", "ldap://h/dc=x???(uid=%25s))", "filter"),
    ("ldap", "ldap://h/dc=x???(uid=%9999999999s)", "width"),
    ("ldap", f"ldap://h/dc=x???(uid=%{'9' * 5000}s)", "width"),
    ("ldap", "ldap://h/dc=x????!foo", "extension '!foo'"),
    ("ldap", "ldap://h/dc=x????!FOO=secret", "extension '!FOO'"),
    ("http", "", "expected the URL"),
    ("http", "http://[::1/", "expected the URL"),
    ("http", "http://[:1]/", "expected the URL"),
    ("http", "http://h:99999/", "expected the URL"),
    ("http", "http://a..b/", "expected the URL"),
    ("http", f"http://{'a' * 70}/", "expected the URL"),
    ("http", "http://h/ü", "expected the URL"),
    ("redis", "redis", "expected a URL"),
    ("redis", "redis://h:port", "expected a URL"),
    ("redis", "redis://h?colour=red", "expected a URL"),
    ("redis", "redis://h?db=x", "expected a URL"),
    ("mysql", "h:²", "port"),
    ("mysql", "h:65536", "port"),
    ("mysql", "a:b:c:d:e:f:g:h:i:j:k", "11 parts"),
    ("mysql", "[::1:3306", "host"),
    ("mysql", "::1]:3306", "host"),
    ("mysql", "[]:3306", "host"),
    ("mysql", "h,[::1", "host"),
    ("mysql", "h:3306:db:t:u:p]word", "host"),
    ("postgresql", "[::1:5432", "host"),
    ("postgresql", "h:0", "port"),
    ("sqlite", "a:b:c:d:e:f", "too many parts"),
    ("daemon", "s:x", "expected socket:timeout_seconds:max_retry"),
    ("daemon", "s:1:2:3", "expected socket:timeout_seconds:max_retry"),
    ("daemon", f"s:{'9' * 20}", "expected socket:timeout_seconds:max_retry"),
    ("daemon", f"/{'s' * 200}", "expected socket:timeout_seconds:max_retry"),
]


@pytest.mark.parametrize(("kind", "option", "expected"), MALFORMED)
def test_malformed_option_is_reported_in_one_line(kind: str, option: str, expected: str) -> None:
    with pytest.raises(StartupError) as error:
        open_map(kind, option)
    text = str(error.value)
    assert text.startswith("map_library_opt")
    assert expected in text
    assert "\n" not in text


def test_unexpected_exception_is_reported_without_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The text may contain a password."""

    def fail(_: Options) -> PopMap:
        raise LookupError("secret")

    monkeypatch.setattr("perdition.popmap.backends.cdb.open_map", fail)
    with pytest.raises(StartupError, match="map_library_opt: malformed for cdb") as error:
        open_map("cdb", "x")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("option", ["redis://:pass/word@h", "redis://:pass/word@h?db=x"])
def test_message_does_not_contain_the_password(option: str) -> None:
    with pytest.raises(StartupError) as error:
        open_map("redis", option)
    assert "pass" not in str(error.value)
    assert "word" not in str(error.value)


@pytest.mark.parametrize(
    "option",
    [
        "ldap://[::1]:389 h:65535 [::1]/dc=x???(uid=%0999s)",
        "ldap:///dc=x????foo,!bindname=cn=x,!x-bindpw=y",
        "ldap://h/dc=x???(%s=x)?!StartTLS",
        "ldap://h/dc=x???uid=%s",
    ],
)
def test_unusual_ldap_url_is_accepted(option: str) -> None:
    open_map("ldap", option)


@pytest.mark.parametrize(
    ("option", "servers"),
    [
        ("[::1]:3306", ["::1"]),
        ("[::1],h, [fe80::1%eth0]", ["::1", "h", "fe80::1%eth0"]),
        ("/run/socket", ["/run/socket"]),
        ("", ["localhost"]),
    ],
)
def test_hosts_of_a_database(option: str, servers: list[str]) -> None:
    assert vars(open_map("mysql", option))["servers"] == servers


def test_ldap_may_be_on_a_unix_socket() -> None:
    popmap = open_map("ldap", "ldapi://%2Fnonexistent%2Fa:b/dc=x")
    assert vars(popmap)["servers"] == ["ldapi://%2Fnonexistent%2Fa%3Ab"]


# redis-py does not close the socket if it cannot connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_redis_may_be_on_a_unix_socket() -> None:
    popmap = open_map("redis", "unix:///nonexistent/socket")
    with pytest.raises(MapUnavailable, match="nonexistent"):
        popmap.lookup(Query("joe", ENDS))


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("", 0),
        ("base", 0),
        ("Base", 0),
        ("one", 1),
        ("onelevel", 1),
        ("OneLevel", 1),
        ("sub", 2),
        ("SUB", 2),
        ("subtree", 2),
        ("SUBTREE", 2),
        ("children", 3),
        ("subordinate", 3),
    ],
)
def test_ldap_scope_is_read_as_by_libldap(text: str, scope: int) -> None:
    popmap = open_map("ldap", f"ldap://h/dc=x?u,m,p?{text}?(uid=%s)")
    assert vars(popmap)["directory"].scope == scope
