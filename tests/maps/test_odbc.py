"""ODBC drivers of real servers: what every map on a server must do."""

from collections.abc import Iterator

import pytest

from tests.maps.test_servers import (  # noqa: F401 - they are this file's tests, too
    LINES,
    popmap,
    test_hung_server_fails_lookups_at_the_time_limit,
    test_injections_find_nobody,
    test_lookups_may_run_at_once,
    test_lookups_succeed_after_a_restart_of_the_server,
    test_reopened_map_answers,
    test_stopped_server_is_unavailable,
    test_ten_thousand_users_are_found,
    test_users_are_found,
)
from tests.support.folders import public_folder
from tests.support.map_servers import DataSource, MariaDBByODBC, PostgreSQLByODBC


@pytest.fixture(
    scope="module", params=[MariaDBByODBC, PostgreSQLByODBC], ids=lambda server: server.__name__
)
def server(request: pytest.FixtureRequest) -> Iterator[DataSource]:
    """A server with the users, and a data source that leads there."""
    kind: type[DataSource] = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    with (
        public_folder() as folder,
        kind(folder) as running,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("ODBCINI", str(running.sources))
        running.load(LINES)
        yield running
