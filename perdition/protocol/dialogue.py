"""What a dialogue may ask of the connection that it is held over, and what it comes to.

A dialogue is a generator: it yields acts, is sent what each act brought, and returns its outcome.
It knows neither sockets nor clocks, so that it can be tried with bytes alone.
"""

from collections.abc import Callable, Generator
from enum import Enum
from typing import NamedTuple, TypeVar

T = TypeVar("T")

BLANK = b"***"  # stands for a password wherever a dialogue is logged


class LineTooLong(Exception):
    """Thrown into a dialogue whose peer sent a longer line than the read allowed.

    What else the peer has sent is in an unknown state: the dialogue may answer, then it must end.
    """


def unchanged(octets: bytes) -> bytes:
    """Show a line in the log as it came."""
    return octets


def redacted(octets: bytes) -> bytes:
    """Show only how an answer begins: a server that has the password could say it again."""
    return octets.partition(b" ")[0] + b" " + BLANK


class ReadLine(NamedTuple):
    """Read a line of at most ``limit`` octets; brings it without its CR LF or bare LF."""

    limit: int
    shown: Callable[[bytes], bytes] = unchanged


class ReadExactly(NamedTuple):
    """Read ``size`` octets (of a literal); they are never logged."""

    size: int


class Write(NamedTuple):
    """Send ``octets``; the log shows ``shown`` in their place, if it is given."""

    octets: bytes
    shown: bytes | None = None


class Pause:
    """Wait as long as the manual has a peer wait for the answer to a mistake."""


class StartTLS:
    """Negotiate TLS; whatever was read before and not used is thrown away."""


Act = ReadLine | ReadExactly | Write | Pause | StartTLS

Dialogue = Generator[Act, bytes, T]


class Credentials(NamedTuple):
    """Who a client says it is.

    ``user`` is what the manual calls the authentication id. ``authorisation`` is whom it wants to
    act as (SASL only; empty: itself). ``tag`` is the IMAP tag that the answer must bear.
    """

    user: str
    password: bytes
    authorisation: str = ""
    tag: bytes = b""

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"  # and no password


class Accepted(NamedTuple):
    """What the real server said when it let the user in.

    ``line`` is its answer without tag and line end, ``untagged`` whole lines that came before it.
    """

    line: bytes
    untagged: bytes = b""


class Terms(NamedTuple):
    """On what terms clients may log in, as far as capabilities tell them.

    ``capability`` is the manual's option string, ``starttls`` whether TLS may still be negotiated,
    ``login_disabled`` whether a login would be refused now.
    """

    capability: str
    starttls: bool = False
    login_disabled: bool = False


class StartTLSPolicy(Enum):
    """Whether to ask a real server for TLS before logging in (STARTTLS or STLS)."""

    NEVER = "never"
    IF_OFFERED = "if offered"
    REQUIRED = "required"


def refuse(answer: bytes, shown: bytes | None = None) -> Dialogue[None]:
    """Answer a mistake after the pause that makes guessing slow; the log may have ``shown``."""
    yield Pause()
    yield Write(answer, shown)
