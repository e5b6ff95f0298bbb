"""What a master has open for others: for clients and for scrapers."""

import socket

from perdition.net.address import Listening
from perdition.options import Options
from perdition.process.handover import Estate, by_address
from perdition.process.rights import Owner
from perdition.process.service_manager import passed_sockets
from perdition.process.tokens import Tokens


class Sockets:
    """Sockets that are new, or a service manager's, or the predecessor's."""

    def __init__(self, options: Options, owner: Owner, left: Estate) -> None:
        """Open what there is to be open; raises StartupError.

        A socket that the predecessor has left is taken for each address that we listen to as well,
        so that no client is refused in between.
        """
        passed = passed_sockets() or passed_on(left)
        self.are_passed = bool(passed)
        self.listeners = listeners(options, passed, left)
        self.scrapers = scrapers(options, owner, left)
        self.tokens = tokens(options.connection_limit, left)
        left.close()

    def estate(self) -> Estate:
        """Return what the next master is given."""
        estate = Estate()
        estate.listeners = by_address(self.listeners)
        estate.scrapers = self.scrapers
        estate.tokens = self.tokens
        estate.passed = self.are_passed
        return estate

    def close(self) -> None:
        """Let no more clients in.

        Scrapers have the process that tells metrics, for as long as it is there.
        """
        for sock in self.all():
            sock.close()

    def all(self) -> list[socket.socket]:
        """Return all there are."""
        return [*self.listeners, *([self.scrapers] if self.scrapers else [])]

    def descriptors(self) -> list[int]:
        """Return what must stay open when the master detaches."""
        pipe = [self.tokens.source, self.tokens.sink] if self.tokens else []
        return [*(sock.fileno() for sock in self.all()), *pipe]


def passed_on(estate: Estate) -> list[socket.socket]:
    """Return the sockets that a service manager has passed to the predecessor, or to one before."""
    if not estate.passed:
        return []
    found, estate.listeners = estate.listeners, {}
    return list(found.values())


def listeners(options: Options, passed: list[socket.socket], estate: Estate) -> list[socket.socket]:
    """Return what clients connect to; raises StartupError.

    A service manager that has passed sockets has settled where that is.
    """
    listening = Listening(options.tcp_keepalive, options.no_lookup, estate.listeners)
    if passed:
        return [listening.prepare(sock) for sock in passed]
    port = options.listen_port or str(options.service.port)
    return listening.listen(options.bind_address, port)


def scrapers(options: Options, owner: Owner, estate: Estate) -> socket.socket | None:
    """Return what scrapers connect to, if there are to be some; raises StartupError."""
    if options.metrics_address is None:
        return None
    from perdition.process import metrics

    found = estate.scrapers
    if found and metrics.listens_at(found, options.metrics_address):
        estate.scrapers = None
        return found
    return metrics.bind(options.metrics_address, owner)


def tokens(limit: int, estate: Estate) -> Tokens | None:
    """Return the tokens of the connection limit, if there is one; raises StartupError.

    Under an unchanged limit they are the predecessor's, whose sessions have theirs back at the end.
    """
    found = estate.tokens
    if found and found.limit == limit:
        estate.tokens = None
        return found
    return Tokens(limit) if limit else None
