"""User names: what a site makes of what a client typed, in each state of a session."""

from typing import NamedTuple

from perdition.endpoint import ConnectionEnds, Endpoint
from perdition.options.table import Options
from perdition.options.values import State


class Typed(NamedTuple):
    """A user name as the client typed it, without the server that it may have named."""

    name: str
    server: Endpoint | None = None


def divide_server(name: str, options: Options) -> Typed:
    """Take the server off a name, where ``client_server_specification`` lets clients name it."""
    user, delimiter, server = name.rpartition(options.domain_delimiter)
    if options.client_server_specification and delimiter and user and server:
        return Typed(user, Endpoint.parse(server))
    return Typed(name)


def in_state(name: str, state: State, domain: str, options: Options) -> str:
    """Return a name as it is used in a state: stripped, then with a domain, then in lower case.

    ``domain`` is what ``add_domain`` appends ("": nothing is known to append).
    """
    delimiter = options.domain_delimiter
    if state in options.strip_domain.states and delimiter in name:
        name = name.rpartition(delimiter)[0]
    if adds_domain(state, options) and domain and delimiter not in name:
        name += delimiter + domain
    return name.lower() if state in options.lower_case.states else name


def adds_domain(state: State, options: Options) -> bool:
    """Tell whether ``add_domain`` holds in a state: not for a lookup where clients name servers."""
    looks_up = state is State.SERVERNAME_LOOKUP
    refused = looks_up and options.client_server_specification
    return state in options.add_domain.states and not refused


def strip_levels(hostname: str, depth: int) -> str:
    """Return a host's name without its first levels: its domain; "" if nothing is left."""
    return ".".join(hostname.split(".")[depth:])


def query_keys(name: str, ends: ConnectionEnds, options: Options) -> list[str]:
    """Return the keys to ask the popmap for, in order (the manual's ``query_key``)."""
    if not options.query_key:
        return [name]
    delimiter = options.domain_delimiter
    short, found, domain = name.rpartition(delimiter)
    codes = {
        "U": name,
        "u": short if found else name,
        "D": delimiter,
        "d": domain if found else "",
        "i": ends.source,
        "I": ends.destination,
        "p": str(ends.source_port),
        "P": str(ends.destination_port),
        "\\": "\\",
    }
    return [expand(form, codes) for form in options.query_key]


def expand(form: str, codes: dict[str, str]) -> str:
    """Replace a format's escape codes; options are checked for unknown ones at start."""
    pieces = iter(form)
    return "".join(codes[next(pieces)] if piece == "\\" else piece for piece in pieces)
