"""User names: changes in each state, and popmap keys."""

import pytest

from perdition.cli import parse
from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.options.table import Options
from perdition.options.values import State
from perdition.username import ClientName, in_state, query_keys, split_server, strip_levels

LOOKUP, AUTH, LOGIN = State.SERVERNAME_LOOKUP, State.LOCAL_AUTHENTICATION, State.REMOTE_LOGIN
ENDS = ConnectionEnds("192.0.2.1", 4242, "2001:db8::9", 143)


def options(*arguments: str) -> Options:
    """The options of a command line."""
    return Options(**parse(list(arguments)).values)


def test_addresses_are_written_as_in_the_log() -> None:
    assert str(ENDS) == "192.0.2.1:4242->2001:db8::9:143"


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        ([], "joe@mx.example", ClientName("joe@mx.example")),
        (["-c"], "joe@mx.example", ClientName("joe", Endpoint("mx.example"))),
        (["-c"], "joe@mx.example:143", ClientName("joe", Endpoint("mx.example", "143"))),
        (["-c"], "joe@[::1]:143", ClientName("joe", Endpoint("::1", "143"))),
        (["-c"], "joe@home@mx", ClientName("joe@home", Endpoint("mx"))),
        (["-c"], "joe", ClientName("joe")),
        (["-c"], "joe@", ClientName("joe@")),
        (["-c"], "@mx", ClientName("@mx")),
        (["-c", "-D", "-at-"], "joe-at-mx", ClientName("joe", Endpoint("mx"))),
        (["-c", "-D", "-at-"], "joe@mx", ClientName("joe@mx")),
    ],
)
def test_server_is_cut_from_the_user_name(
    arguments: list[str], name: str, expected: ClientName
) -> None:
    assert split_server(name, options(*arguments)) == expected


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        ([], "Joe@Home", "Joe@Home"),
        (["-S", "all"], "joe@home", "joe"),
        (["-S", "all"], "joe", "joe"),
        (["-S", "all"], "joe@a@b", "joe@a"),
        (["-S", "all", "-D", "##"], "joe#1##home", "joe#1"),
        (["-A", "all"], "joe", "joe@example.com"),
        (["-A", "all"], "joe@home", "joe@home"),
        (["-A", "all", "-D", "##"], "joe@home", "joe@home##example.com"),
        (["-A", "all", "-S", "all"], "joe@home", "joe@example.com"),
        (["--lower_case", "all"], "JOE@Ä", "joe@ä"),
        (["--lower_case", "all", "-A", "all", "-S", "all"], "JOE@HOME", "joe@example.com"),
    ],
)
def test_name_is_changed_in_all_states(arguments: list[str], name: str, expected: str) -> None:
    for state in State:
        assert in_state(name, state, "example.com", options(*arguments)) == expected


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    ("option", "name", "expected"),
    [("-A", "joe", "joe@example.com"), ("-S", "joe@home", "joe"), ("--lower_case", "JOE", "joe")],
)
def test_name_is_changed_only_in_the_chosen_state(
    state: State, option: str, name: str, expected: str
) -> None:
    chosen = options(option, state.value)
    for each in State:
        found = in_state(name, each, "example.com", chosen)
        assert found == (expected if each is state else name)


def test_no_domain_is_added_for_the_lookup_if_clients_may_name_a_server() -> None:
    chosen = options("-c", "-A", "all")
    assert in_state("joe", LOOKUP, "example.com", chosen) == "joe"
    assert in_state("joe", AUTH, "example.com", chosen) == "joe@example.com"
    assert in_state("joe", LOGIN, "example.com", chosen) == "joe@example.com"


def test_no_domain_is_added_if_none_is_known() -> None:
    assert in_state("joe", LOGIN, "", options("-A", "all")) == "joe"


@pytest.mark.parametrize(
    ("depth", "domain"),
    [(0, "www.au.example.net"), (1, "au.example.net"), (2, "example.net"), (9, "")],
)
def test_levels_are_stripped_from_a_hosts_name(depth: int, domain: str) -> None:
    assert strip_levels("www.au.example.net", depth) == domain


@pytest.mark.parametrize(
    ("formats", "name", "keys"),
    [
        ("", "joe@home", ["joe@home"]),
        (r"\U", "joe@home", ["joe@home"]),
        (r"\u,\D\d", "joe@home", ["joe", "@home"]),
        (r"\u,\D\d", "joe@a@b", ["joe@a", "@b"]),
        (r"\u,\d", "joe", ["joe", ""]),
        (r"\u\da_domain,\da_domain", "joe@x", ["joexa_domain", "xa_domain"]),
        (r"\i:\p", "joe", ["192.0.2.1:4242"]),
        (r"\I:\P", "joe", ["2001:db8::9:143"]),
        (r"\\u\\", "joe", ["\\u\\"]),
        ("fixed,,", "joe", ["fixed", "", ""]),
        (r"\U", r"j\uoe", [r"j\uoe"]),
    ],
)
def test_query_keys_are_formatted(formats: str, name: str, keys: list[str]) -> None:
    assert query_keys(name, ENDS, options("--query_key", formats)) == keys
