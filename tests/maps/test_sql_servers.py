"""What only SQL servers have: ClientTLS, tables of all shapes, names that are words of SQL."""

from collections.abc import Iterator

import pytest

from perdition.failure import MapUnavailable
from perdition.popmap import Destination, Query
from perdition.popmap.sql import COLON, Table
from tests.maps.test_servers import ANSWERS, ENDS, LINES, opened
from tests.support.folders import public_folder
from tests.support.map_servers import MariaDB, PostgreSQL, SQLServer


@pytest.fixture(scope="module", params=[MariaDB, PostgreSQL], ids=lambda kind: kind.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[SQLServer]:
    kind: type[SQLServer] = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    with public_folder() as folder, kind(folder) as running:
        running.load(LINES)
        yield running


def expect_joe(server: SQLServer, option: str) -> None:
    """joe is found by that option."""
    popmap = opened(server, option)
    assert popmap.lookup(Query("joe", ENDS)) == ANSWERS["joe"]
    popmap.close()


def expect_unavailable(server: SQLServer, option: str, complaint: str) -> None:
    """Nobody can be asked by that option, and the log can say why."""
    popmap = opened(server, option)
    with pytest.raises(MapUnavailable, match=complaint):
        popmap.lookup(Query("joe", ENDS))
    popmap.close()


@pytest.mark.usefixtures("strict_python")
def test_server_can_be_reached_with_tls(server: SQLServer) -> None:
    expect_joe(server, server.option_with_tls(server.authority))


def test_unknown_authority_is_unavailable(server: SQLServer) -> None:
    expect_unavailable(server, server.option_with_tls("tls"), "certificate verify failed")


def test_certificate_for_another_name_is_unavailable(server: SQLServer) -> None:
    option = server.option_with_tls(server.authority, host="localhost")
    expect_unavailable(server, option, "localhost")


def test_server_without_required_tls_is_unavailable(server: SQLServer) -> None:
    """Whoever asks for TLS never goes on without it."""
    server.has_tls = False
    server.restart()
    try:
        expect_unavailable(server, server.option_with_tls(server.authority), "TLS|SSL")
        expect_joe(server, server.option())
    finally:
        server.has_tls = True
        server.restart()


def test_wrong_password_is_not_logged(server: SQLServer) -> None:
    option = server.option().replace(f"@{server.password_file}", "wr0ng")
    popmap = opened(server, option)
    with pytest.raises(MapUnavailable) as failure:
        popmap.lookup(Query("joe", ENDS))
    assert "wr0ng" not in failure.value.detail
    popmap.close()


def test_missing_table_is_unavailable(server: SQLServer) -> None:
    option = server.option().replace(":dbperdition:", ":dbperdition:elsewhere", 1)
    expect_unavailable(server, option, "elsewhere")


def test_table_without_a_port_column(server: SQLServer) -> None:
    parts = COLON.split(server.option())
    option = ":".join([*parts, *[""] * (len(Table._fields) - 2 - len(parts)), "absent"])
    assert Table.parse(option).port_column == "absent"
    popmap = opened(server, option)
    expected = {key: found and without_port(found) for key, found in ANSWERS.items()}
    assert {key: popmap.lookup(Query(key, ENDS)) for key in ANSWERS} == expected
    popmap.close()


def without_port(found: Destination) -> Destination:
    """The destination if its port was in a column of its own."""
    return found._replace(server=found.server._replace(port=""))
