"""A worker: one thread, one loop, thousands of sessions. It never has privileges."""

import concurrent.futures.thread  # noqa: F401 - before the fork: workers share its pages
import errno
import os
import pickle
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from setproctitle import setproctitle

from perdition.clients import Clients
from perdition.configuration import read_file_again
from perdition.failure import StartupError
from perdition.helper_line import Asker, Line
from perdition.log import Log, fault
from perdition.net.loop import READ, Loop
from perdition.options import Options
from perdition.popmap import PopMap
from perdition.process.encryption import Encryption
from perdition.process.furnish import furnish, refurnish
from perdition.process.scoreboard import Counter, Limit, in_words
from perdition.process.tokens import Tokens
from perdition.session import Session
from perdition.tally import Tally
from perdition.username import Ends

BEAT_SECONDS = 2.0
"""How often at the least a worker shows that its loop turns."""
SPIN_SECONDS = 20.0
"""Of CPU: how long its loop may not turn, until the system ends the worker."""
TITLE_SECONDS = 1.0
"""How often at the most the title is written anew."""
BREATHER_SECONDS = 1.0
"""How long nobody is accepted after the system has run out of something."""
ORDER_SIZE = 262144
"""Octets in the options that the master sends."""
QUIET_SECONDS = 60.0
"""How long nothing is said of further clients that are turned away."""
OWN_DESCRIPTORS = 32
"""What a worker needs for itself; each session needs two, and who has one must get the other."""
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
EXHAUSTED = (*NO_DESCRIPTOR, errno.ENOBUFS, errno.ENOMEM)


class Heritage(NamedTuple):
    """What a worker gets from its master.

    ``row`` is its row of the scoreboard. ``lifeline`` is the reading end of a pipe whose other
    end the master alone holds. By ``orders`` come new options, in front of a SIGHUP.
    """

    name: str
    number: int
    options: Options
    log: Log
    popmap: PopMap
    listeners: list[socket.socket]
    row: memoryview
    clients: Clients
    tokens: Tokens | None
    lifeline: int
    orders: socket.socket
    tls: Encryption
    line: Line | None


class Worker:
    """Accepts clients and runs their sessions until it is told to drain."""

    def __init__(self, heritage: Heritage) -> None:
        self.name = heritage.name
        self.number = heritage.number
        self.options = options = heritage.options
        self.log = log = heritage.log
        self.row = heritage.row
        self.tokens = heritage.tokens
        self.tls = heritage.tls
        self.loop = loop = Loop()
        loop.on_fault = lambda error: log.error(f"a fault of our own: {fault(error)}")
        self.helper = Asker(loop, heritage.line) if heritage.line else None
        self.tally = Tally(heritage.row)
        self.site = furnish(
            loop,
            options,
            log,
            popmap=heritage.popmap,
            tls=heritage.tls,
            clients=heritage.clients,
            tally=self.tally,
            helper=self.helper,
        )
        self.site.clients.belong_to(self.number - 1)
        self.listeners = [Listener(sock, self) for sock in heritage.listeners]
        self.lifeline = heritage.lifeline
        self.orders = heritage.orders
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most_sessions = max(1, (descriptors - OWN_DESCRIPTORS) // 2)
        self.on_end = self.end  # one bound method for all sessions
        self.quiet_until = 0.0
        self.exhausted = False
        self.draining = False
        self.title_is_due = False

    def run(self, accepts: bool) -> NoReturn:
        """Serve until told to stop, then end the process.

        Unless it ``accepts`` clients, they are another perdition's until SIGUSR1.
        """
        self.show_title()
        self.on_signal(signal.SIGTERM, lambda: self.drain(self.options.drain_timeout))
        self.on_signal(signal.SIGQUIT, lambda: self.drain(None))
        self.on_signal(signal.SIGHUP, self.reload)
        self.on_signal(signal.SIGUSR1, self.listen)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the master passes its own
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self.loop.watch(self.lifeline, READ, self)
        if accepts:
            self.listen()
        self.beat()
        self.loop.run()
        self.log.debug(f"worker {self.number} ends")
        os._exit(os.EX_OK)

    def beat(self) -> None:
        """Show the master that this worker is not stuck.

        Should it spin, it ends also where there is no master any more to kill it: by SIGPROF, as
        long as nobody handles that.
        """
        self.row[Counter.BEATS] += 1
        signal.setitimer(signal.ITIMER_PROF, SPIN_SECONDS)
        self.loop.call_later(BEAT_SECONDS, self.beat)

    def on_signal(self, number: signal.Signals, action: Callable[[], None]) -> None:
        """Have the loop do something at a signal."""
        signal.signal(number, lambda *_: self.loop.call_soon_from_thread(action))

    def ready(self, events: int) -> None:
        """End: the master has gone."""
        self.log.error(f"worker {self.number}: the master has died, so does this worker")
        self.loop.watch(self.lifeline, 0, self)
        self.drain(0)

    def fail(self) -> None:
        """Go on: only the lifeline's end is handled here, and it comes once."""

    def reload(self) -> None:
        """Take up what the master has found good, for sessions to come.

        Signals may have come as one: the latest order counts. Without any the master has found a
        mistake, and all but the log stays as it was.
        """
        self.log.reopen()
        order = b""
        with suppress(BlockingIOError):
            while newer := self.orders.recv(ORDER_SIZE):
                order = newer
        if not order:
            return
        self.options = pickle.loads(order)
        self.log.adapt(self.options.debug, self.options.quiet)
        self.site = refurnish(self.site, self.options, self.tls)
        self.site.popmap.reopen()
        if self.tls.listening:
            self.loop.spawn(self.renew_certificates())

    async def renew_certificates(self) -> None:
        """Read the certificates again, which the master has found good a moment ago."""
        try:
            files = {}
            for path in self.tls.files:
                files[path] = await self.helper.file(path) if self.helper else read_file_again(path)
            self.tls.renew(files)
        except StartupError as error:
            self.log.error(
                f"worker {self.number} keeps the old certificates: {error}; send SIGHUP again"
            )

    def listen(self) -> None:
        """Accept clients."""
        for listener in self.listeners:
            self.loop.watch(listener.sock.fileno(), READ, listener)

    def keep_descriptors(self) -> None:
        """Raise OSError where a further client would take what the others' logins need."""
        if self.row[Counter.SESSIONS] >= self.most_sessions:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def take_breather(self, error: OSError) -> None:
        """Accept nobody for a while: without descriptors the loop would only spin."""
        no_descriptor = error.errno in NO_DESCRIPTOR
        self.tally.limit_hit(Limit.DESCRIPTORS if no_descriptor else Limit.MEMORY)
        if not self.exhausted:
            self.exhausted = True
            self.log.error(f"no clients are accepted until there is room: {error.strerror}")
        for listener in self.listeners:
            self.loop.watch(listener.sock.fileno(), 0, listener)
        self.loop.call_later(BREATHER_SECONDS, self.listen)

    def begin(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        """Begin a client's session, if the limits have room for it."""
        self.exhausted = False
        ends = Ends.between(peer, sock.getsockname())
        if not self.has_room(ends.source):
            sock.close()
            return
        sock.setblocking(False)
        self.tally.connected()
        self.row[Counter.SESSIONS] += 1
        self.row[Counter.TOKENS] += bool(self.tokens)
        if self.options.connections_per_client:
            self.site.clients.connected(ends.source, +1)
        self.loop.spawn(Session(self.site, sock, ends, self.on_end).run())
        self.show_title_soon()

    def has_room(self, address: str) -> bool:
        """Tell whether an address may have a connection more; take a token for it if so."""
        limit = self.options.connections_per_client
        if limit and self.site.clients.connections(address) >= limit:
            self.note_limit(Limit.CONNECTIONS_PER_CLIENT, f"{address} has {limit}")
            return False
        if self.tokens and not self.tokens.take():
            self.note_limit(Limit.CONNECTIONS, f"all {self.options.connection_limit} are taken")
            return False
        return True

    def note_limit(self, limit: Limit, why: str) -> None:
        """Count that a client was turned away, and log it, but not each time in a storm of them."""
        self.tally.limit_hit(limit)
        if self.loop.now >= self.quiet_until:
            self.quiet_until = self.loop.now + QUIET_SECONDS
            self.log.notice(f"{limit}: {why}; further connections are closed")

    def end(self, ends: Ends) -> None:
        """Note that a client has gone."""
        self.row[Counter.SESSIONS] -= 1
        if self.options.connections_per_client:
            self.site.clients.connected(ends.source, -1)
        if self.tokens:
            self.row[Counter.TOKENS] -= 1
            self.tokens.put_back()
        self.show_title_soon()
        if self.draining and not self.row[Counter.SESSIONS]:
            self.loop.stop()

    def show_title_soon(self) -> None:
        """Have the title tell the number of sessions, within a while."""
        if not self.title_is_due:
            self.title_is_due = True
            self.loop.call_later(TITLE_SECONDS, self.show_title)

    def show_title(self) -> None:
        """Tell the number of sessions in the process's title."""
        self.title_is_due = False
        count = self.row[Counter.SESSIONS]
        setproctitle(f"{self.name}: worker {self.number}, {in_words(count)}")

    def drain(self, seconds: float | None) -> None:
        """Accept nobody any more, and end when the last session has, or after some seconds."""
        self.draining = True
        for listener in self.listeners:
            self.loop.watch(listener.sock.fileno(), 0, listener)
            listener.sock.close()
        self.listeners = []
        if not self.row[Counter.SESSIONS]:
            self.loop.stop()
        elif seconds is not None:
            self.loop.call_later(seconds, self.site.end_sessions)


class Listener:
    """Accepts the clients of a listening socket."""

    def __init__(self, sock: socket.socket, worker: Worker) -> None:
        self.sock = sock
        self.worker = worker

    def ready(self, events: int) -> None:
        """Accept one client: others are left for the other workers, and for the next round."""
        try:
            self.worker.keep_descriptors()
            client, peer = self.sock.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                self.worker.take_breather(error)
            return  # else another worker was faster, or the client has gone
        self.worker.begin(client, peer)

    def fail(self) -> None:
        """Go on: what went wrong with one client is no other client's."""
