"""User names: how the options change what the client sent, for each state of a session."""

from typing import NamedTuple

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.options.table import Options
from perdition.options.values import State


class ClientName(NamedTuple):
    """A user name as the client sent it, and the server that it specified."""

    name: str
    server: Endpoint | None = None


def split_server(name: str, options: Options) -> ClientName:
    """Separate a name from its server, if ``client_server_specification`` allows one."""
    user, delimiter, server = name.rpartition(options.domain_delimiter)
    if options.client_server_specification and delimiter and user and server:
        return ClientName(user, Endpoint.parse(server))
    return ClientName(name)


def in_state(name: str, state: State, domain: str, options: Options) -> str:
    """Return a name for a state: strip, append the domain, then convert to lower case.

    ``domain`` is what ``add_domain`` appends ("": nothing).
    """
    delimiter = options.domain_delimiter
    if state in options.strip_domain.states and delimiter in name:
        name = name.rpartition(delimiter)[0]
    if adds_domain(state, options) and domain and delimiter not in name:
        name += delimiter + domain
    return name.lower() if state in options.lower_case.states else name


def adds_domain(state: State, options: Options) -> bool:
    """Whether ``add_domain`` applies: not to lookups if clients may specify servers."""
    looks_up = state is State.SERVERNAME_LOOKUP
    excluded = looks_up and options.client_server_specification
    return state in options.add_domain.states and not excluded


def strip_levels(hostname: str, depth: int) -> str:
    """Return a host name without its first ``depth`` labels; "" if none is left."""
    return ".".join(hostname.split(".")[depth:])


def query_keys(name: str, ends: ConnectionEnds, options: Options) -> list[str]:
    """Return the keys to look up, in order (``query_key``)."""
    if not options.query_key:
        return [name]
    delimiter = options.domain_delimiter
    short, separator, domain = name.rpartition(delimiter)
    codes = {
        "U": name,
        "u": short if separator else name,
        "D": delimiter,
        "d": domain if separator else "",
        "i": ends.source,
        "I": ends.destination,
        "p": str(ends.source_port),
        "P": str(ends.destination_port),
        "\\": "\\",
    }
    return [expand(form, codes) for form in options.query_key]


def expand(form: str, codes: dict[str, str]) -> str:
    """Replace a format's escape codes; unknown ones were rejected at startup."""
    pieces = iter(form)
    return "".join(codes[next(pieces)] if piece == "\\" else piece for piece in pieces)
