"""Types of option values that other modules use: name states, use of TLS, password logging."""

from enum import Enum
from typing import NamedTuple

TLS_VERSIONS = ("sslv3", "tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3")
"""As written in options, lowest first."""


def is_number(text: str) -> bool:
    """Return whether a text is one or more ASCII digits; int() accepts those of other scripts."""
    return text.isascii() and text.isdigit()


class State(Enum):
    """The steps of a login that use a user name."""

    SERVERNAME_LOOKUP = "servername_lookup"
    LOCAL_AUTHENTICATION = "local_authentication"
    REMOTE_LOGIN = "remote_login"


STATE_NAMES = {
    **{state.value: frozenset({state}) for state in State},
    "server_lookup": frozenset({State.SERVERNAME_LOOKUP}),
    "local_auth": frozenset({State.LOCAL_AUTHENTICATION}),
    "all": frozenset(State),
}


DEFAULT_DEPTH = 1
"""How many levels ``add_domain`` strips from a host's name by default."""


class States(NamedTuple):
    """A set of states, and how many levels ``add_domain`` strips from a host's name."""

    states: frozenset[State] = frozenset()
    depth: int = DEFAULT_DEPTH

    def __or__(self, other: "States") -> "States":
        depth = other.depth if other.depth != DEFAULT_DEPTH else self.depth
        return States(self.states | other.states, depth)

    def __str__(self) -> str:
        names = [state.value for state in State if state in self.states]
        return ",".join([*names, str(self.depth)] if self.depth != DEFAULT_DEPTH else names)


NO_STATES = States()


class TLSUse(Enum):
    """How TLS is used on one side."""

    NONE = ""
    SSL = "ssl"
    TLS = "tls"
    TLS_FORCE = "tls_force"


class SSLMode(NamedTuple):
    """How TLS is used with clients and with real servers."""

    listen: TLSUse = TLSUse.NONE
    outgoing: TLSUse = TLSUse.NONE

    def __str__(self) -> str:
        sides = (("listen", self.listen), ("outgoing", self.outgoing))
        names = [
            use.value.replace("_force", "") + f"_{side}" + use.value[3:]
            for side, use in sides
            if use is not TLSUse.NONE
        ]
        return ",".join(names) or "none"


class LogPassword(Enum):
    """The logins whose password is logged."""

    NEVER = "never"
    OK = "ok"
    FAIL = "fail"
    ALWAYS = "always"
