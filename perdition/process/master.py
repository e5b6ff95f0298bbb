"""The master: binds, drops privileges, forks, supervises. It never reads from the network."""

import os
import pickle
import signal
import socket
import time
from contextlib import suppress
from typing import NoReturn

from setproctitle import setproctitle

from perdition import __version__
from perdition.auth import login_seconds
from perdition.configuration import Configuration
from perdition.failure import StartupError
from perdition.log import Log, fault
from perdition.options import Options
from perdition.popmap import PopMap
from perdition.popmap.kinds import open_map
from perdition.process.children import Children, Slot
from perdition.process.daemon import detach, release_parent
from perdition.process.encryption import Encryption
from perdition.process.handover import Word
from perdition.process.keeper import Keeper
from perdition.process.memory import settle
from perdition.process.place import Place
from perdition.process.rights import Owner, harden, renounce
from perdition.process.scoreboard import Counter, in_words
from perdition.process.sockets import Sockets
from perdition.process.worker import Heritage, Worker

SIGNALS = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGCHLD, signal.SIGIO),
}
GRACE_SECONDS = 5.0
"""What workers get beyond the drain timeout before they are killed."""
BEGIN_SECONDS = 10.0
"""How long all workers together may take until they serve."""
BEGIN_STEP_SECONDS = 0.01
LOOK_SECONDS = 5.0
"""How often the master looks whether its workers move, which they do more often."""


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
        self.place = Place(self.name, options, self.owner, log)
        estate = self.place.estate()
        self.sockets = Sockets(options, self.owner, estate)
        self.place.prepare(estate)
        self.children = Children(
            options.workers or len(os.sched_getaffinity(0)),
            bool(self.sockets.scrapers),
            self.become,
            log,
            self.sockets.tokens,
        )
        self.lifeline = (-1, -1)
        self.keeper = Keeper()
        self.stopping = False
        self.kill_at: float | None = None
        self.look_at: float | None = None

    def run(self) -> int:
        """Detach if that is wanted, serve, and return the exit status."""
        harden()
        self.log.reopen()  # a connection to syslog would not outlive the detaching
        parent = None if self.options.foreground else detach(self.descriptors())
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        setproctitle(f"{self.name}: master")
        self.log_start()
        self.place.claim()
        self.lifeline = os.pipe2(os.O_CLOEXEC)
        settle()
        self.start_helper()
        self.log.give(self.owner.uid, self.owner.gid)
        self.owner.become()
        renounce()
        self.children.start_all()
        begun = self.workers_begin() and self.take_place()
        if begun:
            if parent is not None:
                with suppress(BrokenPipeError):  # nobody waits for the command any more
                    release_parent(parent)
        else:
            self.give_up()
        while not self.is_over():
            self.wait()
        self.leave()
        return os.EX_OK if begun else os.EX_UNAVAILABLE

    def start_helper(self) -> None:
        """Fork the helper, if there is something that only root can do."""
        if self.options.authenticate_in or self.needs_root():
            self.keeper.start(
                self.name,
                [*self.tls.files, self.configuration.path],
                len(self.children.workers),
                self.lifeline,
                [*self.sockets.all(), *self.place.sockets()],
                login_seconds(self.options.authenticate_timeout),
            )

    def needs_root(self) -> bool:
        """Tell whether something that SIGHUP reads may be for root alone."""
        if os.getuid() != 0:
            return False
        path = self.configuration.path
        with self.owner.acting():
            is_hidden = path and not os.access(path, os.R_OK, effective_ids=True)
        return bool(self.tls.files or is_hidden)

    def workers_begin(self) -> bool:
        """Wait until all workers serve; return whether they do, and shall.

        One that dies before would die again: to have tried that is worse than to say so.
        """
        until = time.monotonic() + BEGIN_SECONDS
        while not (self.stopping or self.children.serving()):
            if self.children.failing() or time.monotonic() >= until:
                self.log.error("perdition does not start: its workers do not come to serve")
                return False
            self.wait(BEGIN_STEP_SECONDS)
        return not self.stopping

    def take_place(self) -> bool:
        """Be the master that others find; tell whether that was possible."""
        if self.place.predecessor:
            try:
                self.place.take_over()
            except StartupError as error:
                self.log.error(f"perdition does not take over: {error}")
                return False
            self.children.signal_workers(signal.SIGUSR1)  # clients are theirs, and no earlier
            self.log.notice("this perdition has taken over from the one that ran")
        self.look_at = time.monotonic() + LOOK_SECONDS
        self.place.tell("READY=1", f"MAINPID={os.getpid()}")
        self.tell_status()
        self.place.await_successor()
        self.hear()
        return True

    def give_up(self) -> None:
        """End what has begun; a predecessor goes on as if nothing had been."""
        self.place.leave_predecessor()
        self.stop(signal.SIGTERM)

    def is_over(self) -> bool:
        """Tell whether there is nobody left to wait for."""
        return self.stopping and not (self.children.left() or self.place.predecessor)

    def leave(self) -> None:
        """Take away what the next master would find, unless it is that one's already."""
        self.children.end_metrics()
        if self.place.is_ours:
            self.place.remove()
            if isinstance(path := self.options.metrics_address, str):
                with suppress(OSError):  # a socket that stays is stale to the next start
                    os.unlink(path)
        os.close(self.lifeline[1])
        self.keeper.await_end(SIGNALS)
        self.log.notice("perdition has ended")

    def descriptors(self) -> list[int]:
        """Return what must stay open when the master detaches."""
        found = [*self.sockets.descriptors(), *self.place.descriptors()]
        if self.log.sink.descriptor >= 0:
            found.append(self.log.sink.descriptor)
        return found

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

    def become(self, slot: Slot, orders: socket.socket) -> NoReturn:
        """Do what a slot is for, in a process of its own, until that ends.

        Signals wait until it knows what to do at them.
        """
        os.close(self.lifeline[1])
        for sock in self.place.sockets():
            sock.close()
        self.keeper.close_lines(slot.number)
        if slot is self.children.metrics:
            self.serve_scrapers()
        if self.sockets.scrapers:
            self.sockets.scrapers.close()
        self.worker(slot, orders).run(accepts=self.place.is_ours)

    def serve_scrapers(self) -> NoReturn:
        """Tell scrapers what the scoreboard shows, after closing all that is for others."""
        from perdition.process import metrics

        assert self.sockets.scrapers
        for sock in self.sockets.listeners:
            sock.close()
        if self.sockets.tokens:
            self.sockets.tokens.close()
        protocol = self.options.service.name
        metrics.serve(
            self.name,
            self.sockets.scrapers,
            self.children.scoreboard,
            protocol,
            self.log,
            self.lifeline[0],
        )

    def worker(self, slot: Slot, orders: socket.socket) -> Worker:
        """Return a worker for a slot."""
        return Worker(
            Heritage(
                name=self.name,
                number=slot.number,
                options=self.options,
                log=self.log,
                popmap=self.popmap,
                listeners=self.sockets.listeners,
                row=self.children.scoreboard.rows[slot.number - 1],
                clients=self.children.clients,
                tokens=self.sockets.tokens,
                lifeline=self.lifeline[0],
                orders=orders,
                tls=self.tls,
                line=self.keeper.line(slot.number),
            )
        )

    def wait(self, longest: float = LOOK_SECONDS) -> None:
        """Sleep until something has to be done, for so many seconds at the most, and do it."""
        times = self.children.next_due()
        times += [when for when in (self.kill_at, self.look_at) if when is not None]
        if times:
            longest = min(longest, max(0.0, min(times) - time.monotonic()))
        received = signal.sigtimedwait(SIGNALS, longest)
        try:
            if received and received.si_signo in SIGNALS:  # none, if it was stopped for so long
                self.handle(signal.Signals(received.si_signo))
            self.do_what_is_due(time.monotonic())
        except Exception as error:  # noqa: BLE001 - without a master all would end
            self.log.error(f"a fault of our own: {fault(error)}")

    def handle(self, received: signal.Signals) -> None:
        """Do what a signal asks for."""
        match received:
            case signal.SIGCHLD:
                self.bury()
            case signal.SIGIO:
                self.hear()
            case signal.SIGHUP:
                self.reload()
            case signal.SIGQUIT:
                self.log.notice("SIGQUIT: perdition ends when its last session does")
                self.stop(signal.SIGQUIT)
            case _:
                self.end(received.name)

    def hear(self) -> None:
        """Hear what the masters before and after this one have to say."""
        if self.place.predecessor and self.place.predecessor.has_ended():
            self.place.predecessor = None
            self.log.info("the perdition that was taken over has ended")
        for word in self.place.hear_successor(self.sockets.estate):
            match word:
                case Word.TAKEN:
                    self.retire()
                case Word.REOPEN:
                    self.reopen_log()
                    self.children.signal_workers(signal.SIGHUP)
                case Word.END:
                    self.end("the perdition that took over was told to end")

    def retire(self) -> None:
        """Leave all clients to the successor; open sessions go on until they end."""
        self.log.notice("taken over by another perdition; this one serves its sessions to the end")
        self.place.is_ours = False
        setproctitle(f"{self.name}: master, draining")
        self.children.end_metrics()
        self.stop(signal.SIGTERM if self.options.drain_timeout else signal.SIGQUIT)

    def end(self, why: str) -> None:
        """Accept no more clients, and have all sessions end within the drain timeout."""
        self.log.notice(f"{why}: perdition ends")
        self.place.tell_predecessor(Word.END)
        self.stop(signal.SIGTERM)

    def reload(self) -> None:
        """Take up the configuration and the certificates that are there now, if all are good.

        The log is opened anew in any case.
        """
        self.place.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self.reopen_log()
        try:
            options = self.configuration.read_again(self.options, self.keeper.read)
            popmap = self.next_map(options)
            if self.tls.listening:
                self.tls.renew({path: self.keeper.read(path) for path in self.tls.files})
        except StartupError as error:
            self.log.error(f"SIGHUP: nothing is changed: {error}")
        else:
            self.popmap = popmap
            self.adopt(options)
        self.children.signal_workers(signal.SIGHUP)
        self.place.tell("READY=1")

    def next_map(self, options: Options) -> PopMap:
        """Return the popmap that new options name; raises StartupError.

        One that they name anew must be there. The one that was there before is opened at the next
        login, and may be away for a moment, as while it is written anew.
        """
        popmap = open_map(options)
        popmap.check()
        before = (self.options.map_library, self.options.map_library_opt)
        if (options.map_library, options.map_library_opt) != before:
            popmap.probe()
        return popmap

    def reopen_log(self) -> None:
        """Open the log anew, and have the predecessor do so, whose sessions go on."""
        self.log.reopen()
        self.place.tell_predecessor(Word.REOPEN)

    def adopt(self, options: Options) -> None:
        """Let new options count, and pass them on to the workers."""
        self.options = options
        self.log.adapt(options.debug, options.quiet)
        self.log.notice("SIGHUP: configuration, popmap and certificates are read again")
        for remark in self.configuration.remarks:
            self.log.warning(remark)
        self.children.order(pickle.dumps(options))

    def stop(self, how: signal.Signals) -> None:
        """Accept no more clients, and have the workers end, as a signal tells them to."""
        self.place.tell("STOPPING=1")
        self.stopping = True
        self.sockets.close()
        self.place.close()
        if how == signal.SIGTERM:
            self.kill_at = time.monotonic() + self.options.drain_timeout + GRACE_SECONDS
        self.children.end(how)

    def bury(self) -> None:
        """Note which children have died."""
        self.children.bury()
        if self.keeper.has_died():
            self.log.error("the helper's keeper has died: restart perdition to have one again")

    def do_what_is_due(self, now: float) -> None:
        """Start children whose time has come, look after the others, kill those that do not end."""
        self.children.start_due(now)
        if self.look_at is not None and self.look_at <= now:
            self.look_at = now + LOOK_SECONDS
            self.children.look_after()
            self.tell_status()
        if self.kill_at is not None and self.kill_at <= now:
            self.kill_at = None
            self.end_waiting()

    def end_waiting(self) -> None:
        """Kill workers that are left, and leave a predecessor that is to its own drain timeout."""
        if self.children.left():
            self.log.error("workers did not end in time and are killed")
            self.children.signal_workers(signal.SIGKILL)
        if self.place.predecessor:
            self.log.notice("the perdition that was taken over has sessions left and ends later")
            self.place.predecessor = None

    def tell_status(self) -> None:
        """Tell the service manager that this process moves, and how much there is to do."""
        sessions = self.children.scoreboard.total(Counter.SESSIONS)
        self.place.tell("WATCHDOG=1", f"STATUS={in_words(sessions)}")
