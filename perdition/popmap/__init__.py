"""Popmaps: who is whose real server. A file for each kind, and here what they have in common."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from perdition.endpoint import ConnectionEnds, Endpoint


class Destination(NamedTuple):
    """What a popmap knows of a user: the server, and the name there ("": the user's own).

    With a ``password``, that one is used there for the name, whatever the client has given.
    """

    server: Endpoint
    user: str = ""
    password: bytes | None = None

    def __repr__(self) -> str:
        return f"Destination(server={self.server!r}, user={self.user!r})"  # and no password

    @classmethod
    def parse(cls, value: str, delimiter: str) -> "Destination":
        """Read ``[user<delimiter>]host[:port]``; the delimiter's last occurrence divides."""
        user, _, server = value.rpartition(delimiter)
        return cls(Endpoint.parse(server.strip()), user.strip())


class Query(NamedTuple):
    """What a popmap is asked: a key, and the connection of the client that it is asked for.

    ``secure`` tells whether that has TLS, ``attempt`` counts its logins. The password is there for
    maps with ``wants_password``.
    """

    key: str
    ends: ConnectionEnds
    secure: bool = False
    attempt: int = 1
    password: bytes = b""

    def __repr__(self) -> str:
        return f"Query(key={self.key!r}, ends={self.ends!r})"  # and no password


def one_line(error: Exception) -> str:
    """Return what an exception says, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


class SlowLookup(Exception):
    """A lookup that would hold up all sessions: it is to be done again, ``at_length``."""


class PopMap(ABC):
    """A popmap in its four verbs: open (which is to make one), look up, reopen, close.

    The master opens it, as root; each worker has a copy. So a connection waits for the first
    lookup, and passwords are read from their files before that.
    """

    blocks: ClassVar[bool]
    """Whether a lookup may wait for more than the disk: it then runs in a thread, several at
    once, and must end by itself in about ``map_timeout`` seconds."""

    wants_password: bool = False
    """Whether it is told passwords; its answers are then for that password alone, never kept."""

    def check(self) -> None:  # noqa: B027 - few kinds have anything to do
        """Raise StartupError if the map can never be asked; done once, before it is."""

    def probe(self) -> None:  # noqa: B027 - servers may be away for a while
        """Raise StartupError if the map is in a file and cannot be asked; leaves nothing open."""

    @abstractmethod
    def lookup(self, query: Query) -> Destination | None:
        """Return what the map has for a key.

        Raises MapUnavailable if it cannot be asked, Rejected for a password that is wrong, and
        Lengthy, where it does not block, for a key that takes more than some milliseconds.
        """

    def at_length(self, query: Query) -> Destination | None:
        """Return what the map has for a key, as ``lookup`` does; in a thread.

        For what was Lengthy, and in such a way that other threads go on.
        """
        return self.lookup(query)

    @abstractmethod
    def reopen(self) -> None:
        """Forget what is open or remembered, as after SIGHUP."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""


class NoMap(PopMap):
    """The map of a site without one: nobody is in it."""

    blocks = False

    def lookup(self, query: Query) -> Destination | None:
        return None

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass
