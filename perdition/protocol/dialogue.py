"""The acts that a dialogue may request from its connection, and the types of its outcome.

A dialogue is a generator: it yields acts, is sent the result of each, and returns its outcome.
It uses neither sockets nor clocks, so it can be tested with bytes alone.
"""

from collections.abc import Callable, Generator
from enum import Enum
from typing import NamedTuple, TypeVar

T = TypeVar("T")

REDACTED = b"***"  # replaces passwords in the traffic log


class LineTooLong(Exception):
    """Thrown into a dialogue whose peer sent a line over the limit of a ReadLine.

    The rest of the input cannot be parsed: the dialogue may reply, then it must end.
    """


def unchanged(data: bytes) -> bytes:
    """Show the whole line in the log."""
    return data


def redact_reply(data: bytes) -> bytes:
    """Show only the first token of a reply: a server that has the password could repeat it."""
    return data.partition(b" ")[0] + b" " + REDACTED


class ReadLine(NamedTuple):
    """Read a line of at most ``limit`` bytes; the result has no CR LF or bare LF."""

    limit: int
    redact: Callable[[bytes], bytes] = unchanged


class ReadExactly(NamedTuple):
    """Read ``size`` bytes (of a literal); they are never logged."""

    size: int


class AwaitInput(NamedTuple):
    """Wait for input, but no longer than ``seconds``; the result is empty if there is none."""

    seconds: float


class Write(NamedTuple):
    """Send ``data``; the log shows ``log_as`` instead, if it is set."""

    data: bytes
    log_as: bytes | None = None


class Pause:
    """Delay the reply to an invalid command."""


class StartTLS:
    """Negotiate TLS; discard plain text that was received but not yet used."""


Act = ReadLine | ReadExactly | AwaitInput | Write | Pause | StartTLS

Dialogue = Generator[Act, bytes, T]


class Credentials(NamedTuple):
    """What a client sends to log in.

    ``user`` is the manual's authentication id, ``authorisation`` its authorisation id (SASL only;
    empty: the same as ``user``). ``tag`` is the IMAP tag of the reply. With
    ``asked_capability`` the IMAP client has sent CAPABILITY, so it may ignore response codes in
    greeting and reply.
    """

    user: str
    password: bytes
    authorisation: str = ""
    tag: bytes = b""
    asked_capability: bool = False

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"  # without the password


class Accepted(NamedTuple):
    """The real server's reply to a successful login.

    ``line`` is the reply without tag and line end, ``untagged`` are the lines before it, and
    ``capability`` is the list of an IMAP server's capabilities after the login.
    """

    line: bytes
    untagged: bytes = b""
    capability: bytes = b""


class LoginOffer(NamedTuple):
    """What perdition offers a client before its login, as its capabilities tell.

    ``capability`` is the value of the option, ``starttls`` whether TLS can still be negotiated,
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


def refuse(reply: bytes, log_as: bytes | None = None) -> Dialogue[None]:
    """Reply to an invalid command after a delay; the log shows ``log_as``."""
    yield Pause()
    yield Write(reply, log_as)
