"""What a master has open for others: clients, scrapers, and the masters before and after it."""

import socket

from perdition.failure import StartupError
from perdition.net.address import Listening
from perdition.options import Options
from perdition.process.handover import Estate, Handover, Predecessor, by_address
from perdition.process.pid_file import PidFile
from perdition.process.rights import Owner
from perdition.process.service_manager import passed_sockets
from perdition.process.tokens import Tokens


class Sockets:
    """Sockets that are new, or a service manager's, or the predecessor's."""

    def __init__(self, options: Options, owner: Owner, pid_file: PidFile | None) -> None:
        """Open what there is to be open; raises StartupError.

        A socket of the predecessor's is taken for each address that we listen to as well, so that
        no client is refused in between.
        """
        self.handover: Handover | None = None
        self.predecessor: Predecessor | None = None
        estate = Estate()
        if options.takeover:
            if not pid_file:
                raise StartupError("takeover: give the pid_file of the perdition that runs")
            self.predecessor = Predecessor(pid_file.handover)
            estate = self.predecessor.estate()
        self.inherited = estate.handover
        passed = passed_sockets() or passed_on(estate)
        self.are_passed = bool(passed)
        self.listeners = listeners(options, passed, estate)
        self.scrapers = scrapers(options, owner, estate)
        self.tokens = tokens(options.connection_limit, estate)
        estate.close()

    def await_successor(self, pid_file: PidFile) -> None:
        """Let another master find this one; raises StartupError."""
        self.handover = Handover(pid_file.handover, self.inherited)

    def for_successor(self) -> Estate:
        """Return what the next master is given."""
        estate = Estate()
        estate.handover = self.handover.sock if self.handover else None
        estate.listeners = by_address(self.listeners)
        estate.scrapers = self.scrapers
        estate.tokens = self.tokens
        estate.passed = self.are_passed
        return estate

    def close_to_others(self, taken: bool) -> None:
        """Let no more clients and no more successors in; one may have taken over.

        Scrapers have the process that tells metrics, for as long as it is there.
        """
        for sock in self.listeners:
            sock.close()
        if self.scrapers:
            self.scrapers.close()
        if self.handover:
            self.handover.retire(taken)

    def masters_own(self) -> list[socket.socket]:
        """Return what none but the master may hold."""
        own = self.handover.sockets() if self.handover else []
        return [*own, self.predecessor.line] if self.predecessor else own

    def all(self) -> list[socket.socket]:
        """Return all there are."""
        return [*self.listeners, *([self.scrapers] if self.scrapers else []), *self.masters_own()]

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
