"""A worker: one thread with one event loop and thousands of sessions. It never has privileges."""

# Imported before the fork, so that workers share its pages. net.thread_pool imports it only when it
# is used, because inetd mode must start fast.
import concurrent.futures.thread  # noqa: F401
import errno
import os
import pickle
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from setproctitle import setproctitle

from perdition.endpoint import ConnectionEnds
from perdition.failure import StartupError
from perdition.files import reread_file
from perdition.net.loop import READ, Handler
from perdition.process.connection_limit import ConnectionLimit
from perdition.scoreboard import Column, Limit, sessions_text
from perdition.session import Session
from perdition.site import Site

HEARTBEAT_SECONDS = 2.0

STALL_SECONDS = 20.0
"""CPU time without a heartbeat after which the kernel kills the worker."""

TITLE_SECONDS = 1.0
"""Minimum interval between two updates of the process title."""

PAUSE_ACCEPTING_SECONDS = 1.0
"""How long to accept no clients after running out of descriptors or memory."""

MAX_OPTIONS_SIZE = 262144
"""Maximum size in bytes of the options that the master sends."""

LIMIT_LOG_SECONDS = 60.0
"""Minimum interval between two log lines about refused connections."""

RESERVED_DESCRIPTORS = 32
"""Descriptors for the worker itself. Each session needs two, so enough must be left for both."""

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
NO_MEMORY = (errno.ENOBUFS, errno.ENOMEM)
MORE_DESCRIPTORS = "raise LimitNOFILE"


class Worker:
    """Accepts clients and runs their sessions until it is told to drain.

    ``lifeline`` is the reading end of a pipe whose writing end only the master holds. New options
    arrive on ``options_socket`` before a SIGHUP.
    """

    def __init__(
        self,
        name: str,
        number: int,
        site: Site,
        listeners: list[socket.socket],
        connection_limit: ConnectionLimit | None,
        lifeline: int,
        options_socket: socket.socket,
    ) -> None:
        self.name = name
        self.number = number
        self.site = site
        self.log = site.log
        self.loop = site.loop
        self.loop.on_error = site.log.internal_error
        self.counters = site.counters
        self.row = site.counters.row
        self.listeners = [Listener(sock, self) for sock in listeners]
        self.connection_limit = connection_limit
        self.lifeline = Lifeline(lifeline, self)
        self.options_socket = options_socket
        site.client_limits.use_share(number - 1)
        self.descriptor_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.max_sessions = max(1, (self.descriptor_limit - RESERVED_DESCRIPTORS) // 2)
        self.on_end = self.session_ended  # one bound method for all sessions
        self.limit_logged_until = 0.0
        self.exhausted = False
        self.draining = False
        self.title_is_due = False

    def run(self, accepts: bool) -> NoReturn:
        """Serve until told to stop, then exit.

        With ``accepts`` False it accepts clients only after SIGUSR1, when a takeover is complete.
        """
        self.update_title()
        self.on_signal(signal.SIGTERM, lambda: self.drain(self.site.options.drain_timeout))
        self.on_signal(signal.SIGQUIT, lambda: self.drain(None))
        self.on_signal(signal.SIGHUP, self.reload)
        self.on_signal(signal.SIGUSR1, self.accept_clients)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal; the master sends SIGTERM
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self.lifeline.watch()
        if accepts:
            self.accept_clients()
        self.heartbeat()
        self.loop.run()
        self.log.debug(f"worker {self.number} exits")
        os._exit(os.EX_OK)

    def heartbeat(self) -> None:
        """Show the master that the event loop runs.

        If it stalls, SIGPROF kills the worker even if there is no master left to do so.
        """
        self.row[Column.HEARTBEATS] += 1
        signal.setitimer(signal.ITIMER_PROF, STALL_SECONDS)
        self.loop.call_later(HEARTBEAT_SECONDS, self.heartbeat)

    def on_signal(self, number: signal.Signals, action: Callable[[], None]) -> None:
        """Run an action in the event loop when a signal arrives."""
        signal.signal(number, lambda *_: self.loop.call_soon_from_thread(action))

    def reload(self) -> None:
        """Reopen the log and apply the options that the master has sent, to new sessions.

        Several SIGHUPs may arrive as one; the latest options are used. If there are none, the
        master has found an error, and the configuration stays unchanged.
        """
        self.log.reopen()
        pickled = b""
        with suppress(BlockingIOError):
            while newer := self.options_socket.recv(MAX_OPTIONS_SIZE):
                pickled = newer
        if not pickled:
            return
        options = pickle.loads(pickled)
        try:
            self.site = self.site.reload(options)
        except StartupError as error:
            self.log.error(f"worker {self.number}: reload failed, configuration unchanged: {error}")
            return
        self.log.set_verbosity(options.debug, options.quiet)
        if self.site.tls.listening:
            self.loop.spawn(self.reload_certificates())

    async def reload_certificates(self) -> None:
        """Read the certificates again, which the master has just verified."""
        tls, helper = self.site.tls, self.site.helper
        assert tls.listening
        try:
            content = {}
            for path in tls.files:
                content[path] = await helper.read_file(path) if helper else reread_file(path)
            tls.listening.load(content)
        except StartupError as error:
            self.log.error(
                f"worker {self.number} keeps the old certificates: {error}; send SIGHUP again"
            )

    def accept_clients(self) -> None:
        for listener in self.listeners:
            listener.watch()

    def pause_accepting(self, limit: Limit, reason: str, remedy: str) -> None:
        """Accept no clients for a while, because the event loop would only spin."""
        self.counters.limit_hit(limit)
        if not self.exhausted:
            self.exhausted = True
            self.log.error(
                f"accepting no clients for {PAUSE_ACCEPTING_SECONDS:g} s: {reason}; "
                f"{sessions_text(self.row[Column.SESSIONS])}, descriptor limit "
                f"{self.descriptor_limit}; {remedy} or lower connection_limit"
            )
        for listener in self.listeners:
            listener.unwatch()
        self.loop.call_later(PAUSE_ACCEPTING_SECONDS, self.accept_clients)

    def start_session(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        """Start a client's session, or close the connection if a limit is reached."""
        self.exhausted = False
        ends = ConnectionEnds.between(peer, sock.getsockname())
        if not self.is_allowed(ends.source):
            sock.close()
            return
        sock.setblocking(False)
        self.counters.connected(has_token=bool(self.connection_limit))
        if self.site.options.connections_per_client:
            self.site.client_limits.change_connections(ends.source, +1)
        self.loop.spawn(Session(self.site, sock, ends, self.on_end).run())
        self.update_title_soon()

    def is_allowed(self, address: str) -> bool:
        """Return whether the limits allow a connection from an address; takes a token if so."""
        options = self.site.options
        limit = options.connections_per_client
        if limit and self.site.client_limits.connections(address) >= limit:
            self.refuse(Limit.CONNECTIONS_PER_CLIENT, f"{limit} reached by {address}")
            return False
        if self.connection_limit and not self.connection_limit.acquire():
            self.refuse(Limit.CONNECTIONS, f"{options.connection_limit} reached")
            return False
        return True

    def refuse(self, limit: Limit, reached: str) -> None:
        """Count a refused connection, and log it at most once in LIMIT_LOG_SECONDS."""
        self.counters.limit_hit(limit)
        if self.loop.now >= self.limit_logged_until:
            self.limit_logged_until = self.loop.now + LIMIT_LOG_SECONDS
            self.log.notice(f"{limit} {reached}; closing new connections")

    def session_ended(self, ends: ConnectionEnds) -> None:
        """Release what the session has taken from the limits."""
        self.counters.disconnected(has_token=bool(self.connection_limit))
        if self.site.options.connections_per_client:
            self.site.client_limits.change_connections(ends.source, -1)
        if self.connection_limit:
            self.connection_limit.release()
        self.update_title_soon()
        if self.draining and not self.row[Column.SESSIONS]:
            self.loop.stop()

    def update_title_soon(self) -> None:
        """Update the title within TITLE_SECONDS."""
        if not self.title_is_due:
            self.title_is_due = True
            self.loop.call_later(TITLE_SECONDS, self.update_title)

    def update_title(self) -> None:
        """Show the number of sessions in the process title."""
        self.title_is_due = False
        sessions = sessions_text(self.row[Column.SESSIONS])
        setproctitle(f"{self.name}: worker {self.number}, {sessions}")

    def drain(self, seconds: float | None) -> None:
        """Stop accepting, and exit after the last session or after ``seconds``, if given."""
        self.draining = True
        for listener in self.listeners:
            listener.unwatch()
            listener.sock.close()
        self.listeners = []
        if not self.row[Column.SESSIONS]:
            self.loop.stop()
        elif seconds is not None:
            self.loop.call_later(seconds, self.site.close_sessions)


class Lifeline(Handler):
    """Drains the worker when the master has died."""

    def __init__(self, descriptor: int, worker: Worker) -> None:
        self.descriptor = descriptor
        self.worker = worker

    def watch(self) -> None:
        self.worker.loop.watch(self.descriptor, READ, self)

    def ready(self, events: int) -> None:
        self.worker.log.error(f"worker {self.worker.number}: master is gone, exiting")
        self.worker.loop.watch(self.descriptor, 0, self)
        self.worker.drain(0)


class Listener(Handler):
    """Accepts clients on a listening socket."""

    def __init__(self, sock: socket.socket, worker: Worker) -> None:
        self.sock = sock
        self.worker = worker

    def watch(self) -> None:
        """Start accepting. All workers watch the same sockets, so ``ready`` may find no client."""
        self.worker.loop.watch(self.sock.fileno(), READ, self)

    def unwatch(self) -> None:
        self.worker.loop.watch(self.sock.fileno(), 0, self)

    def ready(self, events: int) -> None:
        """Accept one client, and leave others to other workers or to the next event."""
        worker = self.worker
        if worker.row[Column.SESSIONS] >= worker.max_sessions:
            worker.pause_accepting(
                Limit.DESCRIPTORS, "as many sessions as descriptors allow", MORE_DESCRIPTORS
            )
            return
        try:
            client, peer = self.sock.accept()
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                worker.pause_accepting(Limit.DESCRIPTORS, str(error.strerror), MORE_DESCRIPTORS)
            elif error.errno in NO_MEMORY:
                worker.pause_accepting(Limit.MEMORY, str(error.strerror), "add memory")
            return  # any other error: another worker was faster, or the client has left
        worker.start_session(client, peer)
