"""Popmaps on servers: kept connections, and failover from one server to the next."""

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import ClassVar, Generic, TypeVar

from perdition.failure import Failure, MapUnavailable
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query, one_line

C = TypeVar("C")


class ServerMap(PopMap, Generic[C]):
    """A map on a server, or on the first of several servers that answers.

    Each lookup takes an idle connection or opens one. ``server_timeout`` is the limit in seconds
    for each server: a failed attempt on a kept connection and then all servers together must not
    take longer than ``map_timeout``.
    """

    blocks = True

    errors: ClassVar[tuple[type[Exception], ...]]
    """What ``connect`` and ``ask`` raise if a server is unavailable."""

    def __init__(self, servers: Sequence[str], options: Options) -> None:
        self.servers = servers
        self.delimiter = options.domain_delimiter
        self.server_timeout = options.map_timeout / (len(servers) + 1)
        self.idle: list[C] = []

    @abstractmethod
    def connect(self, server: str) -> C:
        """Return a connection to a server; raises ``errors`` within ``server_timeout``."""

    @abstractmethod
    def ask(self, connection: C, query: Query) -> Destination | None:
        """Return the destination of a key; raises ``errors`` within ``server_timeout``.

        Raises a Failure if that is the server's answer.
        """

    @abstractmethod
    def disconnect(self, connection: C) -> None:
        """Close a connection, which may be broken."""

    def lookup(self, query: Query) -> Destination | None:
        if kept := self.take():
            with suppress(*self.errors):
                return self.ask_and_keep(kept, query)
            self.close()  # the server restarted, so the other connections are broken too
        reasons, reply = [], ""
        for server in self.servers:
            try:
                return self.ask_and_keep(self.connect(server), query)
            except self.errors as error:
                reasons.append(f"{server}: {self.explain(error)}")
                reply = self.reply(error) or reply
        raise MapUnavailable(f"popmap: {'; '.join(reasons)}", reply=reply)

    def ask_and_keep(self, connection: C, query: Query) -> Destination | None:
        """Query a server, and keep the connection if it is still usable."""
        idle = self.idle
        usable = False
        try:
            destination = self.ask(connection, query)
            usable = True
        except Failure:
            usable = True  # the server did answer
            raise
        finally:
            if usable and idle is self.idle:
                idle.append(connection)
            else:  # broken, or the map was closed meanwhile
                self.discard(connection)
        return destination

    def take(self) -> C | None:
        """Return an idle connection, if there is one."""
        try:
            return self.idle.pop()
        except IndexError:  # not checked before pop, because another thread could be faster
            return None

    def explain(self, error: Exception) -> str:
        """Return the message of an error on one line."""
        return one_line(error)

    def reply(self, error: Exception) -> str:
        """Return the server's text for the client; "": none."""
        return ""

    def discard(self, connection: C) -> None:
        """Close a connection, ignoring errors."""
        with suppress(Exception):
            self.disconnect(connection)

    def cache_key(self, query: Query) -> Hashable:
        return query.key

    def reopen(self) -> None:
        self.close()

    def close(self) -> None:
        closed, self.idle = self.idle, []
        for connection in closed:
            self.discard(connection)
