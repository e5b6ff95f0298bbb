"""The metrics process: serves the scoreboard to Prometheus, without any privileges."""

import os
import resource
import selectors
import signal
import socket
import stat
import sys
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NoReturn

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler
from setproctitle import setproctitle

from perdition.endpoint import Endpoint
from perdition.failure import StartupError
from perdition.log import Log
from perdition.metrics import ScoreboardCollector
from perdition.net.resolver import resolve
from perdition.privileges import Owner, bind_with_umask
from perdition.scoreboard import Scoreboard

SOCKET_UMASK = 0o117
MAX_SCRAPES = 8
"""Maximum number of simultaneous scrapes. When another arrives, the oldest is disconnected: it
must be hanging."""
SCRAPE_SECONDS = 10.0
"""Idle timeout of a scrape, the same as Prometheus's default."""
MAX_DESCRIPTORS = 64
"""Limit of open files: more than the process needs."""


def bind(address: Endpoint | str, owner: Owner) -> socket.socket:
    """Return a listening socket for ``metrics_address``; raises StartupError."""
    try:
        if isinstance(address, str):
            return bind_path(address, owner)
        family, sockaddr = resolve(address, socket.AI_PASSIVE)[0]
        return socket.create_server(sockaddr, family=family)
    except OSError as error:
        raise StartupError(
            f"metrics_address {address}: {error.strerror or error}; "
            "expected a free port of this host, or a path where a socket can be created"
        ) from error


def listens_at(sock: socket.socket, address: Endpoint | str) -> bool:
    """Return whether a socket is bound to that address."""
    if isinstance(address, str):
        return sock.family == socket.AF_UNIX and sock.getsockname() == address
    try:
        return resolve(address, socket.AI_PASSIVE)[0] == (sock.family, sock.getsockname())
    except OSError:
        return False


def bind_path(path: str, owner: Owner) -> socket.socket:
    """Return a listening Unix socket; it replaces one that nobody listens on. Raises OSError."""
    with owner.writing_rights(os.path.dirname(path)):
        sock = create_socket(path)
        if os.geteuid() == 0:
            owner.chown(path)
    sock.listen()
    return sock


def create_socket(path: str) -> socket.socket:
    """Return a Unix socket bound to the path."""
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
        try:
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    bind_with_umask(sock, path, SOCKET_UMASK)
    return sock


def serve(
    name: str,
    sock: socket.socket,
    scoreboard: Scoreboard,
    protocol: str,
    log: Log,
    lifeline: int,
) -> NoReturn:
    """Serve scrapers until the master has exited. Privileges must have been dropped before."""
    setproctitle(f"{name}: metrics")
    for number in (signal.SIGINT, signal.SIGHUP):  # sent by the terminal, and to reload workers
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    limit = min(MAX_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    server = MetricsServer(sock, ScoreboardCollector(scoreboard, protocol), log)
    with selectors.DefaultSelector() as selector:
        selector.register(lifeline, selectors.EVENT_READ)
        selector.register(sock, selectors.EVENT_READ)
        while lifeline not in {key.fd for key, _ in selector.select()}:
            server.handle_request()
    os._exit(os.EX_OK)


class ScrapeHandler(MetricsHandler):
    timeout = SCRAPE_SECONDS


class MetricsServer(ThreadingMixIn, TCPServer):
    """Serves each scraper in a thread, up to MAX_SCRAPES, on an existing listening socket."""

    daemon_threads = True
    timeout = 0
    """Do not wait for a connection: the one that ``serve`` has seen may have been closed."""

    def __init__(self, sock: socket.socket, collector: ScoreboardCollector, log: Log) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        super().__init__(("", 0), ScrapeHandler.factory(registry), bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.log = log
        self.scrapes: dict[socket.socket, None] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        self.scrapes[request] = None
        for oldest in list(self.scrapes)[:-MAX_SCRAPES]:
            self.scrapes.pop(oldest, None)
            with suppress(OSError):  # it has disconnected
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.scrapes.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # a scraper may disconnect at any time
            self.log.error(f"metrics: {type(error).__name__}: {error}")
