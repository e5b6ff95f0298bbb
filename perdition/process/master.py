"""The master: binds, drops privileges, forks, supervises. It never reads from the network."""

import gc
import os
import pickle
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from setproctitle import setproctitle

from perdition import __version__
from perdition.auth import login_seconds
from perdition.clients import Clients
from perdition.configuration import Configuration, read_file
from perdition.failure import StartupError
from perdition.helper_line import Line
from perdition.log import Log, fault
from perdition.net.address import listen
from perdition.options import Options
from perdition.popmap.kinds import open_map
from perdition.process import helper
from perdition.process.daemon import (
    Owner,
    PidFile,
    detach,
    harden,
    release_parent,
    renounce,
)
from perdition.process.encryption import Encryption
from perdition.process.scoreboard import Counter, Scoreboard
from perdition.process.tokens import Tokens
from perdition.process.worker import Heritage, Worker

RUN_DIRECTORY = Path("/var/run")
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD}
GRACE_SECONDS = 5.0
"""What workers get beyond the drain timeout before they are killed."""
KEEPER_SECONDS = 1.0
"""How long the master waits for its keeper's end: one that root has stopped may never come."""
RETRY_SECONDS = 1.0
"""How soon a fork is tried again that the system has refused."""
QUICK_DEATH_SECONDS = 1.0
"""A child that has lived less long has died at once."""
LONGEST_BACKOFF_SECONDS = 60.0


@dataclass(slots=True)
class Slot:
    """A child's place: who has it, since when, or when the next one may.

    ``number`` is a worker's, and 0 for who is none.
    """

    title: str
    number: int = 0
    pid: int = 0
    started: float = 0.0
    due: float = 0.0
    orders: socket.socket | None = None
    quick_deaths: int = 0

    def bereave(self, now: float) -> float:
        """Note a death that nobody asked for; return the seconds until the next one starts."""
        quick = now - self.started < QUICK_DEATH_SECONDS
        self.quick_deaths = self.quick_deaths + 1 if quick else 0
        delay = backoff(self.quick_deaths)
        self.due = now + delay
        return delay


class Master:
    """Starts up, then keeps its children alive until a signal says to end."""

    def __init__(self, configuration: Configuration, options: Options, log: Log) -> None:
        """Do all that can go wrong; raises StartupError."""
        self.configuration = configuration
        self.name = configuration.name
        self.options = options
        self.log = log
        self.owner = Owner.wanted(options)
        self.tls = Encryption(options)
        self.popmap = open_map(options)
        self.popmap.check()
        self.listeners = listen(
            options.bind_address,
            options.listen_port or str(options.service.port),
            options.tcp_keepalive,
            options.no_lookup,
        )
        self.pid_file = self.prepared_pid_file()
        count = options.workers or len(os.sched_getaffinity(0))
        self.slots = [Slot(f"worker {number}", number) for number in range(1, count + 1)]
        self.scoreboard = Scoreboard(count)
        self.clients = Clients(count)
        self.tokens = Tokens(options.connection_limit) if options.connection_limit else None
        self.lifeline = (-1, -1)
        self.keeper = 0
        self.lines: list[Line] = []
        self.stopping = False
        self.kill_at: float | None = None
        self.scrapers = self.prepared_metrics()
        self.metrics = Slot("metrics")
        self.children = [*self.slots, self.metrics] if self.scrapers else self.slots

    def prepared_pid_file(self) -> PidFile | None:
        """Return the pid file, ready to be written, if there is to be one.

        A user who cannot write to the default place, and has named no other, goes without.
        """
        path = self.options.pid_file
        if path == "":
            return None
        pid_file = PidFile(Path(path or RUN_DIRECTORY / self.name / f"{self.name}.pid"), self.owner)
        try:
            pid_file.prepare()
        except StartupError as error:
            if path or os.getuid() == 0:
                raise
            self.log.notice(f"no pid file: {error}")
            return None
        return pid_file

    def prepared_metrics(self) -> socket.socket | None:
        """Return a socket that listens to scrapers, if there are to be some."""
        if self.options.metrics_address is None:
            return None
        from perdition.process import metrics

        return metrics.bind(self.options.metrics_address, self.owner)

    def run(self) -> int:
        """Detach if that is wanted, serve, and return the exit status."""
        harden()
        self.log.reopen()  # a connection to syslog would not outlive the detaching
        parent = None if self.options.foreground else detach(self.descriptors())
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        setproctitle(f"{self.name}: master")
        self.log_start()
        if self.pid_file:
            self.pid_file.write()
        self.lifeline = os.pipe2(os.O_CLOEXEC)
        if self.options.authenticate_in or (self.tls.files and os.getuid() == 0):
            files = [*self.tls.files, self.configuration.path]
            self.lines = [Line(files) for _ in range(len(self.slots) + 1)]
            seconds = login_seconds(self.options.authenticate_timeout)
            self.keeper = helper.start(
                self.name, self.lines, self.lifeline, self.open_to_others(), seconds
            )
        self.log.give(self.owner.uid, self.owner.gid)
        self.owner.become()
        renounce()
        gc.freeze()  # what is imported stays in pages that all processes share
        for slot in self.children:
            self.start(slot)
        if parent is not None:
            release_parent(parent)
        while not (self.stopping and not any(slot.pid for slot in self.slots)):
            self.wait()
        if self.pid_file:
            self.pid_file.remove()
        self.end_metrics()
        self.end_keeper()
        self.log.notice("perdition has ended")
        return os.EX_OK

    def end_keeper(self) -> None:
        """Let keeper and helper end, which they do at the end of the lifeline; not for ever."""
        os.close(self.lifeline[1])
        until = time.monotonic() + KEEPER_SECONDS
        while self.keeper and time.monotonic() < until:
            if os.waitpid(self.keeper, os.WNOHANG)[0]:
                return
            signal.sigtimedwait(SIGNALS, KEEPER_SECONDS)

    def descriptors(self) -> list[int]:
        """Return what must stay open when the master detaches."""
        found = [sock.fileno() for sock in self.open_to_others()]
        if self.log.sink.descriptor >= 0:
            found.append(self.log.sink.descriptor)
        if self.tokens:
            found += [self.tokens.source, self.tokens.sink]
        return found

    def open_to_others(self) -> list[socket.socket]:
        """Return the sockets on which this process waits for others to connect."""
        return [*self.listeners, *([self.scrapers] if self.scrapers else [])]

    def log_start(self) -> None:
        """Log what is started, and its options."""
        options = self.options
        if options.debug or not options.foreground:
            self.log.info(
                f"Starting perdition version={__version__} protocol={options.service.name}"
            )
        self.log.info(options.logged())
        for remark in self.tls.remarks:
            self.log.warning(remark)

    def start(self, slot: Slot) -> None:
        """Fork a child."""
        slot.started, slot.due = time.monotonic(), 0.0
        if slot.number:
            self.scoreboard.rows[slot.number - 1][Counter.STARTED] += 1
        try:
            slot.orders, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            slot.pid = os.fork()
        except OSError as error:
            slot.due = slot.started + RETRY_SECONDS
            self.log.error(f"{slot.title} cannot start: {error.strerror}; tried again soon")
            return
        if slot.pid:
            orders.close()
            return
        try:
            os.close(self.lifeline[1])
            for other in self.children:
                if other.orders:
                    other.orders.close()  # nobody but the master gives orders
            orders.setblocking(False)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self.serve(slot, orders)
        except BaseException as error:  # noqa: BLE001 - it is logged and ends the process
            self.log.error(f"{slot.title} has failed: {fault(error)}")
        finally:
            os._exit(os.EX_SOFTWARE)

    def serve(self, slot: Slot, orders: socket.socket) -> NoReturn:
        """Do what a slot is for, until the process ends."""
        if slot is self.metrics:
            self.serve_scrapers()
        if self.scrapers:
            self.scrapers.close()
        self.worker(slot, orders).run()

    def serve_scrapers(self) -> NoReturn:
        """Tell scrapers what the scoreboard shows, after closing all that is for others."""
        from perdition.process import metrics

        assert self.scrapers
        for sock in (*self.listeners, *(line.ours for line in self.lines)):
            sock.close()
        if self.tokens:
            self.tokens.close()
        protocol = self.options.service.name
        metrics.serve(
            self.name, self.scrapers, self.scoreboard, protocol, self.log, self.lifeline[0]
        )

    def end_metrics(self) -> None:
        """End the process that tells metrics, which has nothing to finish."""
        if self.metrics.pid:
            os.kill(self.metrics.pid, signal.SIGKILL)
            os.waitpid(self.metrics.pid, 0)
        if isinstance(path := self.options.metrics_address, Path):
            with suppress(OSError):  # a socket that stays is stale to the next start
                path.unlink()

    def worker(self, slot: Slot, orders: socket.socket) -> Worker:
        """Return a worker for a slot."""
        return Worker(
            Heritage(
                name=self.name,
                number=slot.number,
                options=self.options,
                log=self.log,
                popmap=self.popmap,
                listeners=self.listeners,
                row=self.scoreboard.rows[slot.number - 1],
                clients=self.clients,
                tokens=self.tokens,
                lifeline=self.lifeline[0],
                orders=orders,
                tls=self.tls,
                line=self.lines[slot.number] if self.lines else None,
            )
        )

    def wait(self) -> None:
        """Sleep until something has to be done, and do it."""
        times = [slot.due for slot in self.children if slot.due]
        if self.kill_at is not None:
            times.append(self.kill_at)
        if times:
            seconds = max(0.0, min(times) - time.monotonic())
            received = signal.sigtimedwait(SIGNALS, seconds)
        else:
            received = signal.sigwaitinfo(SIGNALS)
        try:
            if received:
                self.handle(signal.Signals(received.si_signo))
            self.do_what_is_due(time.monotonic())
        except Exception as error:  # noqa: BLE001 - without a master all would end
            self.log.error(f"a fault of our own: {fault(error)}")

    def handle(self, received: signal.Signals) -> None:
        """Do what a signal asks for."""
        match received:
            case signal.SIGCHLD:
                self.bury()
            case signal.SIGHUP:
                self.reload()
            case signal.SIGQUIT:
                self.stop(signal.SIGQUIT)
            case _:
                self.stop(signal.SIGTERM)
                self.kill_at = time.monotonic() + self.options.drain_timeout + GRACE_SECONDS

    def reload(self) -> None:
        """Take up the configuration and the certificates that are there now, if all are good.

        Log and popmap are opened anew in any case.
        """
        self.log.reopen()
        try:
            options = self.configuration.read_again(self.options, self.read)
            popmap = open_map(options)
            popmap.check()
            if self.tls.listening:
                self.tls.renew({path: self.read(path) for path in self.tls.files})
        except StartupError as error:
            self.log.error(f"SIGHUP: nothing is changed: {error}")
        else:
            self.popmap = popmap
            self.adopt(options)
        self.signal_workers(signal.SIGHUP)

    def read(self, path: str) -> bytes:
        """Return a file, by the helper if only root can read it; raises StartupError."""
        if self.lines and path in self.lines[0].files:
            return self.lines[0].ask_for_file(path)
        return read_file(path)

    def adopt(self, options: Options) -> None:
        """Let new options count, and pass them on to the workers."""
        self.options = options
        self.log.adapt(options.debug, options.quiet)
        self.log.notice("SIGHUP: configuration, popmap and certificates are read again")
        for remark in self.configuration.remarks:
            self.log.warning(remark)
        order = pickle.dumps(options)
        for slot in self.slots:
            if slot.pid and slot.orders:
                with suppress(OSError):  # it has died, and the next one has them anyway
                    slot.orders.send(order, socket.MSG_DONTWAIT)

    def stop(self, how: signal.Signals) -> None:
        """Accept no more clients, and have the workers end their sessions."""
        self.log.notice(f"{how.name}: perdition ends")
        self.stopping = True
        for sock in self.listeners:
            sock.close()
        for slot in self.children:
            slot.due = 0.0
        self.signal_workers(how)

    def signal_workers(self, number: signal.Signals) -> None:
        """Send a signal to every worker."""
        for slot in self.slots:
            if slot.pid:
                os.kill(slot.pid, number)

    def bury(self) -> None:
        """Note each child that has died, and when the next one takes its place."""
        for slot in self.children:
            if slot.pid:
                pid, status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    self.note_death(slot, os.waitstatus_to_exitcode(status))
        if self.keeper and os.waitpid(self.keeper, os.WNOHANG)[0]:
            self.keeper = 0
            self.log.error("the helper's keeper has died: restart perdition to have one again")

    def note_death(self, slot: Slot, code: int) -> None:
        """Free a dead child's slot, and what it held."""
        lost = self.take_back(slot.number - 1) if slot.number else ""
        pid, slot.pid = slot.pid, 0
        if self.stopping:
            return
        delay = slot.bereave(time.monotonic())
        self.log.error(
            f"{slot.title} (pid {pid}) {end_of(code)}{lost}; "
            f"a new one starts {f'in {delay:g} s' if delay else 'now'}"
        )

    def take_back(self, row: int) -> str:
        """Count a dead worker, take back what it held, and return what the log tells of that."""
        counters = self.scoreboard.rows[row]
        lost = counters[Counter.SESSIONS]
        counters[Counter.DIED] += not self.stopping
        held = self.scoreboard.take_back_tokens(row)
        self.clients.shares[row].clear_connections()
        if self.tokens and held:
            self.tokens.put_back(held)
        return f" with {lost} sessions"

    def do_what_is_due(self, now: float) -> None:
        """Start children whose time has come, and kill workers that do not end."""
        for slot in self.children:
            if slot.due and slot.due <= now:
                self.start(slot)
        if self.kill_at is not None and self.kill_at <= now:
            self.log.error("workers did not end in time and are killed")
            self.signal_workers(signal.SIGKILL)
            self.kill_at = None


def backoff(quick_deaths: int) -> float:
    """Return the seconds to wait after so many deaths in a row that came at once: 0, 1, 2, 4..."""
    return min(2.0 ** (quick_deaths - 2), LONGEST_BACKOFF_SECONDS) if quick_deaths > 1 else 0.0


def end_of(code: int) -> str:
    """Return how a child has ended, for the log; one that succeeded was told to, not by us."""
    if code == os.EX_OK:
        return "has ended as it was told"
    return f"died of {signal.Signals(-code).name if code < 0 else f'status {code}'}"
