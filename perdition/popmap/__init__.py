"""Popmaps map users to real servers: the base class of all kinds, queries and answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import ClassVar, NamedTuple

from perdition.endpoint import ConnectionEnds, Endpoint


class Destination(NamedTuple):
    """A popmap's answer: the user's server, and the user name there ("": unchanged).

    A ``password`` replaces the one that the client sent.
    """

    server: Endpoint
    user: str = ""
    password: bytes | None = None

    def __repr__(self) -> str:
        return f"Destination(server={self.server!r}, user={self.user!r})"  # without the password

    @classmethod
    def parse(cls, value: str, delimiter: str) -> "Destination":
        """Read ``[user<delimiter>]host[:port]``; the last delimiter separates the two."""
        user, _, server = value.rpartition(delimiter)
        return cls(Endpoint.parse(server.strip()), user.strip())


class Query(NamedTuple):
    """A question to a popmap: the key, and the connection of the client that logs in.

    ``secure``: the client uses TLS. ``attempt`` counts the connection's logins. The password is
    set only for maps with ``wants_password``.
    """

    key: str
    ends: ConnectionEnds
    secure: bool = False
    attempt: int = 1
    password: bytes = b""

    def __repr__(self) -> str:
        return f"Query(key={self.key!r}, ends={self.ends!r})"  # without the password


def one_line(error: Exception) -> str:
    """Return the message of an exception on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


class SlowLookup(Exception):
    """The lookup would block the worker: repeat it with ``lookup_in_thread``."""


class PopMap(ABC):
    """A popmap. The constructor opens it; then ``lookup``, ``reopen`` and ``close`` are called.

    The master constructs it as root, before it forks the workers: read passwords from files in
    the constructor, and connect at the first lookup.
    """

    blocks: ClassVar[bool]
    """Whether a lookup may wait for anything but the disk. If so, lookups run in several threads
    at once, and each must end within about ``map_timeout`` seconds."""

    wants_password: bool = False
    """Whether queries contain the password. Answers are then never cached."""

    must_be_valid: ClassVar[bool] = False
    """Whether ``probe`` must succeed at start, not only after a change of the options."""

    start_notice: str = ""
    """A line for the log at start."""

    log_warning: Callable[[str], None] = staticmethod(lambda text: None)
    """Logs a warning; set before the first lookup."""

    def check(self) -> None:  # noqa: B027 - optional
        """Raise StartupError if the map can never be used. Called once, at startup."""

    def probe(self) -> None:  # noqa: B027 - optional
        """Raise StartupError if the map is a file that cannot be used. Leaves nothing open."""

    def reads_same_file(self, other: "PopMap") -> bool:
        """Whether another map has the same options and content that may continue to be used."""
        del other
        return False

    @abstractmethod
    def lookup(self, query: Query) -> Destination | None:
        """Return the destination of a key; None if the map does not contain it.

        Raises MapUnavailable if that is unknown, Rejected for a wrong password, and (only maps that
        do not block) SlowLookup for a key that takes more than a few milliseconds.
        """

    def lookup_in_thread(self, query: Query) -> Destination | None:
        """Repeat a lookup that raised SlowLookup; it must not make other threads wait."""
        return self.lookup(query)

    def cache_key(self, query: Query) -> Hashable:
        """Return what an answer may depend on: queries with equal keys share a cached answer.

        A map that uses less than the whole query returns that, for example ``query.key``.
        """
        return query

    @abstractmethod
    def reopen(self) -> None:
        """Drop connections and remembered content, as after SIGHUP."""

    @abstractmethod
    def close(self) -> None:
        """Close files and connections."""


class NoMap(PopMap):
    """Used if ``map_library`` is empty."""

    blocks = False

    def lookup(self, query: Query) -> Destination | None:
        return None

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass
