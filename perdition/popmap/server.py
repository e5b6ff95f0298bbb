"""Popmaps on servers: connections that are kept, and one server after the other."""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Generic, TypeVar

from perdition.failure import Failure, MapUnavailable
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query, one_line

C = TypeVar("C")


class ServerMap(PopMap, Generic[C]):
    """A map on a server, or on the first of several that answers.

    Each thread that looks somebody up takes a connection that nobody uses, or opens one.
    ``patience`` is how many seconds each server may take: all of them together, after a kept
    connection that does not answer, take ``map_timeout``.
    """

    blocks = True

    errors: ClassVar[tuple[type[Exception], ...]]
    """What ``connect`` and ``ask`` raise where a server cannot be asked."""

    def __init__(self, servers: Sequence[str], options: Options) -> None:
        self.servers = servers
        self.delimiter = options.domain_delimiter
        self.patience = options.map_timeout / (len(servers) + 1)
        self.idle: list[C] = []

    @abstractmethod
    def connect(self, server: str) -> C:
        """Return a connection to a server; raises ``errors``, in the end within ``patience``."""

    @abstractmethod
    def ask(self, connection: C, query: Query) -> Destination | None:
        """Return what the map has for a key; raises ``errors``, in the end within ``patience``.

        Raises a Failure where that is the server's answer.
        """

    @abstractmethod
    def disconnect(self, connection: C) -> None:
        """Close a connection, which may be broken."""

    def lookup(self, query: Query) -> Destination | None:
        if kept := self.take():
            with suppress(*self.errors):
                return self.ask_and_keep(kept, query)
            self.close()  # the server was away, and the other connections are as dead as that one
        reasons, reply = [], ""
        for server in self.servers:
            try:
                return self.ask_and_keep(self.connect(server), query)
            except self.errors as error:
                reasons.append(f"{server}: {self.explain(error)}")
                reply = self.reply(error) or reply
        raise MapUnavailable(f"popmap: {'; '.join(reasons)}", reply=reply)

    def ask_and_keep(self, connection: C, query: Query) -> Destination | None:
        """Ask, and keep a connection that is good for more."""
        idle = self.idle
        good = False
        try:
            found = self.ask(connection, query)
            good = True
        except Failure:
            good = True  # that was an answer, too
            raise
        finally:
            if good and idle is self.idle:
                idle.append(connection)
            else:  # it is broken, or the map was closed in between
                self.discard(connection)
        return found

    def take(self) -> C | None:
        """Return a connection that is kept, if there is one."""
        try:
            return self.idle.pop()
        except IndexError:  # not looked for before: another thread may be faster
            return None

    def explain(self, error: Exception) -> str:
        """Return what an error says, on one line."""
        return one_line(error)

    def reply(self, error: Exception) -> str:
        """Return the server's text for the client; "": none."""
        return ""

    def discard(self, connection: C) -> None:
        """Close a connection whatever its state."""
        with suppress(Exception):
            self.disconnect(connection)

    def reopen(self) -> None:
        self.close()

    def close(self) -> None:
        closed, self.idle = self.idle, []
        for connection in closed:
            self.discard(connection)
