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
from perdition.configuration import Configuration, read_file
from perdition.failure import StartupError
from perdition.helper_line import Line
from perdition.log import Log, fault
from perdition.options import Options
from perdition.popmap.kinds import open_map
from perdition.process import helper
from perdition.process.children import Children, Slot
from perdition.process.daemon import detach, release_parent
from perdition.process.encryption import Encryption
from perdition.process.handover import Word
from perdition.process.memory import settle
from perdition.process.pid_file import PidFile
from perdition.process.rights import Owner, harden, renounce
from perdition.process.scoreboard import Counter, in_words
from perdition.process.service_manager import notify
from perdition.process.sockets import Sockets
from perdition.process.worker import Heritage, Worker

RUN_DIRECTORY = "/var/run"
SIGNALS = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGCHLD, signal.SIGIO),
}
GRACE_SECONDS = 5.0
"""What workers get beyond the drain timeout before they are killed."""
KEEPER_SECONDS = 1.0
"""How long the master waits for its keeper's end: one that root has stopped may never come."""
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
        self.pid_file = self.named_pid_file()
        self.sockets = Sockets(options, self.owner, self.pid_file)
        self.prepare_pid_file()
        self.children = Children(
            options.workers or len(os.sched_getaffinity(0)),
            bool(self.sockets.scrapers),
            self.become,
            log,
            self.sockets.tokens,
        )
        self.lifeline = (-1, -1)
        self.keeper = 0
        self.lines: list[Line] = []
        self.in_place = False
        self.stopping = False
        self.kill_at: float | None = None
        self.look_at: float | None = None

    def named_pid_file(self) -> PidFile | None:
        """Return the pid file, if there is to be one."""
        path = self.options.pid_file
        if path is None:
            path = f"{RUN_DIRECTORY}/{self.name}/{self.name}.pid"
        return PidFile(path, self.owner) if path else None

    def prepare_pid_file(self) -> None:
        """See to it that the pid file can be written, and that another master can find us by it.

        A user who cannot write to the default place, and has named no other, goes without. Raises
        StartupError.
        """
        if not self.pid_file:
            return
        try:
            if self.options.takeover:
                self.pid_file.hold()
            else:
                self.pid_file.prepare()
        except StartupError as error:
            if self.options.pid_file or os.getuid() == 0:
                raise
            self.log.notice(f"no pid file: {error}")
            self.pid_file = None
            return
        try:
            self.sockets.await_successor(self.pid_file)
        except StartupError as error:
            self.log.notice(f"no takeover will be possible: {error}")

    def run(self) -> int:
        """Detach if that is wanted, serve, and return the exit status."""
        harden()
        self.log.reopen()  # a connection to syslog would not outlive the detaching
        parent = None if self.options.foreground else detach(self.descriptors())
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        setproctitle(f"{self.name}: master")
        self.log_start()
        if not self.options.takeover:
            self.claim_place()
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

    def claim_place(self) -> None:
        """Write the pid file, in a place that nobody has; raises StartupError."""
        if self.pid_file:
            self.pid_file.write()
        self.in_place = True

    def start_helper(self) -> None:
        """Fork the helper, if there is something that only root can do."""
        if self.options.authenticate_in or self.needs_root():
            files = [*self.tls.files, self.configuration.path]
            self.lines = [Line(files) for _ in range(len(self.children.workers) + 1)]
            seconds = login_seconds(self.options.authenticate_timeout)
            self.keeper = helper.start(
                self.name, self.lines, self.lifeline, self.sockets.all(), seconds
            )

    def needs_root(self) -> bool:
        """Tell whether something that SIGHUP reads may be for root alone.

        Root's further groups do not count, and go: who runs here will not have them either.
        """
        if os.getuid() != 0:
            return False
        path = self.configuration.path
        os.setgroups([])
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
        """Be the master that others find: by the pid file, the handover, the service manager.

        Tell whether that was possible.
        """
        if self.sockets.predecessor:
            try:
                self.sockets.predecessor.check()
                if self.pid_file:
                    self.pid_file.take_over()
            except StartupError as error:
                self.log.error(f"perdition does not take over: {error}")
                return False
            self.sockets.predecessor.take_place()
            self.in_place = True
            self.children.signal_workers(signal.SIGUSR1)  # clients are theirs, and no earlier
            self.log.notice("this perdition has taken over from the one that ran")
        self.look_at = time.monotonic() + LOOK_SECONDS
        self.tell("READY=1", f"MAINPID={os.getpid()}")
        self.tell_status()
        if self.sockets.handover:
            self.sockets.handover.wake()
        self.hear()
        return True

    def give_up(self) -> None:
        """End what has begun; a predecessor goes on as if nothing had been."""
        if self.sockets.predecessor:
            self.sockets.predecessor.line.close()
            self.sockets.predecessor = None
        self.stop(signal.SIGTERM)

    def is_over(self) -> bool:
        """Tell whether there is nobody left to wait for."""
        return self.stopping and not (self.children.left() or self.sockets.predecessor)

    def leave(self) -> None:
        """Take away what the next master would find, unless it is that one's already."""
        self.children.end_metrics()
        if self.in_place:
            if self.pid_file:
                self.pid_file.remove()
            if self.sockets.handover:
                self.sockets.handover.remove()
            if isinstance(path := self.options.metrics_address, str):
                with suppress(OSError):  # a socket that stays is stale to the next start
                    os.unlink(path)
        self.end_keeper()
        self.log.notice("perdition has ended")

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
        found = self.sockets.descriptors()
        if self.log.sink.descriptor >= 0:
            found.append(self.log.sink.descriptor)
        if self.pid_file and self.pid_file.held >= 0:
            found.append(self.pid_file.held)
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
        for sock in self.sockets.masters_own():
            sock.close()
        for number, line in enumerate(self.lines):
            if not number or number != slot.number:
                line.ours.close()  # nobody asks the helper in another's name
        if slot is self.children.metrics:
            self.serve_scrapers()
        if self.sockets.scrapers:
            self.sockets.scrapers.close()
        self.worker(slot, orders).run(accepts=self.in_place)

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
                line=self.lines[slot.number] if self.lines else None,
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
        sockets = self.sockets
        if sockets.predecessor and sockets.predecessor.has_ended():
            sockets.predecessor = None
            self.log.info("the perdition that was taken over has ended")
        if not sockets.handover:
            return
        for word in sockets.handover.hear(sockets.for_successor):
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
        self.in_place = False
        setproctitle(f"{self.name}: master, draining")
        self.children.end_metrics()
        self.stop(signal.SIGTERM if self.options.drain_timeout else signal.SIGQUIT)

    def end(self, why: str) -> None:
        """Accept no more clients, and have all sessions end within the drain timeout."""
        self.log.notice(f"{why}: perdition ends")
        if self.sockets.predecessor:
            self.sockets.predecessor.say(Word.END)
        self.stop(signal.SIGTERM)

    def reload(self) -> None:
        """Take up the configuration and the certificates that are there now, if all are good.

        The log is opened anew in any case.
        """
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self.reopen_log()
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
        self.children.signal_workers(signal.SIGHUP)
        self.tell("READY=1")

    def reopen_log(self) -> None:
        """Open the log anew, and have the predecessor do so, whose sessions go on."""
        self.log.reopen()
        if self.sockets.predecessor:
            self.sockets.predecessor.say(Word.REOPEN)

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
        self.children.order(pickle.dumps(options))

    def stop(self, how: signal.Signals) -> None:
        """Accept no more clients, and have the workers end, as a signal tells them to."""
        self.tell("STOPPING=1")
        self.stopping = True
        self.sockets.close_to_others(taken=not self.in_place)
        if how == signal.SIGTERM:
            self.kill_at = time.monotonic() + self.options.drain_timeout + GRACE_SECONDS
        self.children.end(how)

    def bury(self) -> None:
        """Note which children have died."""
        self.children.bury()
        if self.keeper and os.waitpid(self.keeper, os.WNOHANG)[0]:
            self.keeper = 0
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
        if self.sockets.predecessor:
            self.log.notice("the perdition that was taken over has sessions left and ends later")
            self.sockets.predecessor = None

    def tell_status(self) -> None:
        """Tell the service manager that this process moves, and how much there is to do."""
        sessions = self.children.scoreboard.total(Counter.SESSIONS)
        self.tell("WATCHDOG=1", f"STATUS={in_words(sessions)}")

    def tell(self, *assignments: str) -> None:
        """Tell the service manager something, while this is the master that it looks after."""
        if self.in_place:
            notify(*assignments)
