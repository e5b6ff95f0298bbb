"""The master: binds, drops privileges, forks, supervises. It never reads from the network."""

import gc
import os
import pickle
import signal
import socket
import time
from contextlib import suppress
from typing import NoReturn

from setproctitle import setproctitle

from perdition.failure import StartupError
from perdition.helper.supervisor import HelperHandle
from perdition.local_authentication import pam_seconds
from perdition.log import Log
from perdition.net.tls_contexts import TLSContexts
from perdition.options.configuration import Configuration
from perdition.options.table import Options
from perdition.popmap.kinds import open_at_start, open_changed_map
from perdition.privileges import Owner, forbid_dumps, forbid_new_privileges, set_resource_limits
from perdition.process.child_main import Inheritance, run_metrics, run_worker
from perdition.process.children import Children, Slot
from perdition.process.detach import detach, release_parent
from perdition.process.listening import ListeningSockets
from perdition.process.pid_file import PidFile
from perdition.process.startup import (
    find_pid_file,
    find_predecessor,
    listen_for_successors,
    log_start,
    needs_root,
    prepare_pid_file,
)
from perdition.process.systemd import notify
from perdition.process.takeover import (
    Predecessor,
    SuccessorMessage,
    TakeoverState,
)
from perdition.scoreboard import Column, sessions_text

SIGNALS = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGCHLD,
    signal.SIGIO,
}

IGNORED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Ignored: administrators send them to other daemons, and the default action ends the process."""

KILL_SECONDS = 5.0
"""Time after drain_timeout at which workers that have not exited are killed."""

START_SECONDS = 10.0
"""Time limit for all workers to start."""

START_POLL_SECONDS = 0.01

CHECK_SECONDS = 5.0
"""Interval of heartbeat checks; longer than that of the heartbeats."""


class Master:
    """Starts up, then supervises its children until a signal stops it.

    ``is_primary`` tells whether the pid file and the takeover socket are this master's: not before
    a takeover is complete, and no longer once a successor has taken over.
    """

    def __init__(self, configuration: Configuration, options: Options, log: Log) -> None:
        """Do everything that may fail; raises StartupError.

        The order matters: sockets are bound before the pid file is touched, so that a start that
        fails does not affect the running instance.
        """
        self.configuration = configuration
        self.name = configuration.name
        self.options = options
        self.log = log
        self.owner = Owner.from_options(options)
        self.tls = TLSContexts.load(options)
        self.popmap = open_at_start(options, log)
        pid_file = find_pid_file(self.name, options, self.owner)
        self.is_primary = False
        self.predecessor = find_predecessor(options, pid_file)
        state = self.predecessor.receive_state() if self.predecessor else TakeoverState()
        self.sockets = ListeningSockets(options, self.owner, state)
        self.pid_file = prepare_pid_file(pid_file, self.predecessor, options, log)
        self.takeover_listener = listen_for_successors(self.pid_file, state.takeover_socket, log)
        self.children = Children(
            options.workers or len(os.sched_getaffinity(0)),
            bool(self.sockets.metrics_socket),
            self.run_child,
            log,
            self.sockets.connection_limit,
        )
        self.lifeline = (-1, -1)
        self.helper = HelperHandle()
        self.stopping = False
        self.kill_at: float | None = None
        self.check_at: float | None = None

    def run(self) -> int:
        """Detach unless in the foreground, serve, and return the exit status."""
        set_resource_limits()
        self.log.reopen()  # detaching closes a connection to syslog
        parent = None if self.options.foreground else detach(self.descriptors())
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in IGNORED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        setproctitle(f"{self.name}: master")
        log_start(self.options, self.tls, self.log)
        self.write_pid_file()
        self.lifeline = os.pipe2(os.O_CLOEXEC)
        gc.freeze()  # a garbage collection would copy the pages that children share
        gc.enable()
        self.start_helper()
        self.log.chown(self.owner.uid, self.owner.gid)
        self.owner.drop_privileges()
        forbid_new_privileges()
        forbid_dumps()
        self.children.start_all()
        serves = self.wait_for_workers() and self.become_primary()
        if serves:
            if parent is not None:
                with suppress(BrokenPipeError):  # the command has been interrupted
                    release_parent(parent)
        else:
            self.abort_start()
        while not self.has_stopped():
            self.wait()
        self.clean_up()
        return os.EX_OK if serves else os.EX_UNAVAILABLE

    def write_pid_file(self) -> None:
        """Write the pid file, unless it is still a predecessor's; raises StartupError."""
        if not self.predecessor:
            if self.pid_file:
                self.pid_file.write()
            self.is_primary = True

    def start_helper(self) -> None:
        """Fork the helper and its supervisor, if something needs root after start-up."""
        if self.options.authenticate_in or needs_root(self.configuration, self.tls, self.owner):
            self.helper.start(
                self.name,
                [*self.tls.files, self.configuration.path],
                len(self.children.workers),
                self.lifeline,
                [*self.sockets.sockets(), *self.only_masters()],
                pam_seconds(self.options),
            )

    def wait_for_workers(self) -> bool:
        """Wait until all workers serve; return False if one has died or START_SECONDS have passed.

        A worker that dies at startup would die again, so it is not restarted.
        """
        deadline = time.monotonic() + START_SECONDS
        while not (self.stopping or self.children.all_serve()):
            if self.children.has_failed_to_start():
                self.log.error("startup failed: a worker has died or could not be forked")
                return False
            if time.monotonic() >= deadline:
                self.log.error(
                    f"startup failed: workers not ready after {START_SECONDS:g} s; "
                    "see the log lines above and the load of the machine"
                )
                return False
            self.wait(START_POLL_SECONDS)
        return not self.stopping

    def become_primary(self) -> bool:
        """Take over from a predecessor, if there is one; return False if it has exited."""
        if self.predecessor:
            try:
                self.take_over(self.predecessor)
            except StartupError as error:
                self.log.error(f"takeover failed: {error}")
                return False
        self.check_at = time.monotonic() + CHECK_SECONDS
        self.notify("READY=1", f"MAINPID={os.getpid()}")
        self.notify_status()
        if self.takeover_listener:
            self.takeover_listener.enable_sigio()
        self.handle_takeover_messages()
        return True

    def take_over(self, predecessor: Predecessor) -> None:
        """Replace the predecessor; raises StartupError if it was told to stop in the meantime."""
        if predecessor.has_exited():
            raise StartupError("the running instance has exited in the meantime")
        if self.pid_file:
            self.pid_file.take_over()
        predecessor.replace()
        self.is_primary = True
        self.children.signal_workers(signal.SIGUSR1)  # they accept clients from now on
        self.log.notice("took over from the running instance")

    def abort_start(self) -> None:
        """Stop what was started; a predecessor continues unaffected."""
        if self.predecessor:
            self.predecessor.connection.close()
            self.predecessor = None
        self.stop(signal.SIGTERM)

    def has_stopped(self) -> bool:
        """Return whether all workers have exited, and a predecessor if there is one."""
        return self.stopping and not (self.children.workers_left() or self.predecessor)

    def clean_up(self) -> None:
        """Stop the other children, and remove the files unless they are a successor's now."""
        self.children.kill_metrics()
        if self.is_primary:
            if self.pid_file:
                self.pid_file.remove()
            if self.takeover_listener:
                self.takeover_listener.remove()
            if isinstance(path := self.options.metrics_address, str):
                with suppress(OSError):  # the next start replaces a stale socket
                    os.unlink(path)
        os.close(self.lifeline[1])
        self.helper.await_exit(SIGNALS)
        self.log.notice("perdition has stopped")

    def only_masters(self) -> list[socket.socket | PidFile]:
        """Return what must not be open in any other process."""
        held: list[socket.socket | PidFile] = []
        if self.takeover_listener:
            held += self.takeover_listener.sockets()
        if self.predecessor:
            held.append(self.predecessor.connection)
        if self.pid_file and self.pid_file.is_held():
            held.append(self.pid_file)
        return held

    def descriptors(self) -> list[int]:
        """Return the descriptors that must stay open when the master detaches."""
        descriptors = [
            *self.sockets.descriptors(),
            *(held.fileno() for held in self.only_masters()),
        ]
        if self.log.sink.descriptor >= 0:
            descriptors.append(self.log.sink.descriptor)
        return descriptors

    def run_child(self, slot: Slot, options_socket: socket.socket) -> NoReturn:
        """Run a worker or the metrics process, in the child."""
        inherited = Inheritance(
            name=self.name,
            options=self.options,
            log=self.log,
            tls=self.tls,
            popmap=self.popmap,
            sockets=self.sockets,
            helper=self.helper,
            scoreboard=self.children.scoreboard,
            client_limits=self.children.client_limits,
            lifeline=self.lifeline,
            only_masters=self.only_masters(),
        )
        if slot is self.children.metrics:
            run_metrics(inherited)
        run_worker(inherited, slot.number, options_socket, accepts=self.is_primary)

    def wait(self, longest: float = CHECK_SECONDS) -> None:
        """Wait for a signal or until something is due, for up to ``longest`` seconds; handle it."""
        times = self.children.due_times()
        times += [when for when in (self.kill_at, self.check_at) if when is not None]
        if times:
            longest = min(longest, max(0.0, min(times) - time.monotonic()))
        received = signal.sigtimedwait(SIGNALS, longest)
        try:
            # After SIGSTOP and SIGCONT the call may return a signal that is not in the set.
            if received and received.si_signo in SIGNALS:
                self.handle_signal(signal.Signals(received.si_signo))
            self.run_due(time.monotonic())
        except Exception as error:  # noqa: BLE001 - all sessions depend on the master
            self.log.internal_error(error)

    def handle_signal(self, received: signal.Signals) -> None:
        match received:
            case signal.SIGCHLD:
                self.reap()
            case signal.SIGIO:
                self.handle_takeover_messages()
            case signal.SIGHUP:
                self.reload()
            case signal.SIGQUIT:
                self.log.notice("SIGQUIT: stopping after the last session")
                self.stop(signal.SIGQUIT)
            case _:
                self.shut_down(received.name)

    def handle_takeover_messages(self) -> None:
        """Handle messages of a successor, and the exit of a predecessor."""
        if self.predecessor and self.predecessor.has_exited():
            self.predecessor = None
            self.log.info("the instance that was taken over has exited")
        if not self.takeover_listener:
            return
        for message in self.takeover_listener.receive(self.sockets.takeover_state):
            match message:
                case SuccessorMessage.SERVING:
                    self.retire()
                case SuccessorMessage.REOPEN:
                    self.reopen_log()
                    self.children.signal_workers(signal.SIGHUP)
                case SuccessorMessage.STOP:
                    self.shut_down("the instance that took over is stopping")

    def retire(self) -> None:
        """Stop accepting after a takeover; open sessions continue until they end."""
        self.log.notice("taken over by another instance; draining")
        self.is_primary = False
        setproctitle(f"{self.name}: master, draining")
        self.children.kill_metrics()
        self.stop(signal.SIGTERM if self.options.drain_timeout else signal.SIGQUIT)

    def shut_down(self, reason: str) -> None:
        """Stop accepting, and end all sessions within ``drain_timeout``."""
        self.log.notice(f"{reason}: stopping")
        self.tell_predecessor(SuccessorMessage.STOP)
        self.stop(signal.SIGTERM)

    def tell_predecessor(self, message: SuccessorMessage) -> None:
        """Send a message to the predecessor, if it is still running."""
        if self.predecessor:
            self.predecessor.send(message)

    def notify(self, *assignments: str) -> None:
        """Notify the service manager, while this is the process that it supervises."""
        if self.is_primary:
            notify(*assignments)

    def notify_status(self) -> None:
        """Reset the service manager's watchdog, and report the number of sessions."""
        sessions = self.children.scoreboard.total(Column.SESSIONS)
        self.notify("WATCHDOG=1", f"STATUS={sessions_text(sessions)}")

    def reload(self) -> None:
        """Read configuration, popmap and certificates again; apply them if all are valid.

        The log is reopened in any case.
        """
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self.reopen_log()
        try:
            options = self.configuration.read_again(self.options, self.helper.read)
            popmap = open_changed_map(options, self.options, self.log)
            if self.tls.listening:
                self.tls.listening.load({path: self.helper.read(path) for path in self.tls.files})
        except StartupError as error:
            self.log.error(f"reload failed, configuration unchanged: {error}")
        else:
            self.popmap = popmap
            self.apply(options)
        self.children.signal_workers(signal.SIGHUP)
        self.notify("READY=1")

    def reopen_log(self) -> None:
        """Reopen the log, and have the predecessor do the same, if it still drains."""
        self.log.reopen()
        self.tell_predecessor(SuccessorMessage.REOPEN)

    def apply(self, options: Options) -> None:
        """Apply new options, and send them to the workers."""
        self.options = options
        self.log.set_verbosity(options.debug, options.quiet)
        self.log.notice("configuration reloaded")
        for warning in (*self.configuration.warnings, *options.warnings()):
            self.log.warning(warning)
        self.children.send_options(pickle.dumps(options))

    def stop(self, number: signal.Signals) -> None:
        """Stop accepting, and tell the workers to stop as the signal says."""
        self.notify("STOPPING=1")
        self.stopping = True
        self.sockets.close()
        if self.takeover_listener:
            self.takeover_listener.close(taken=not self.is_primary)
        if number == signal.SIGTERM:
            self.kill_at = time.monotonic() + self.options.drain_timeout + KILL_SECONDS
        self.children.stop(number)

    def reap(self) -> None:
        """Handle the exit of children and of the helper's supervisor."""
        self.children.reap()
        if self.helper.has_exited():
            self.log.error(
                "helper supervisor died: PAM logins and the reload of certificates will fail "
                "until perdition is restarted"
            )

    def run_due(self, now: float) -> None:
        """Start children that are due, check heartbeats, kill workers that do not exit."""
        self.children.start_due(now)
        if self.check_at is not None and self.check_at <= now:
            self.check_at = now + CHECK_SECONDS
            self.children.kill_stuck()
            self.notify_status()
        if self.kill_at is not None and self.kill_at <= now:
            self.kill_at = None
            self.stop_waiting()

    def stop_waiting(self) -> None:
        """Kill the remaining workers; a predecessor ends its sessions by its own drain_timeout."""
        if left := self.children.workers_left():
            self.log.error(
                f"killing {left} workers that have not exited {KILL_SECONDS:g} s after "
                f"drain_timeout ({self.options.drain_timeout} s)"
            )
            self.children.signal_workers(signal.SIGKILL)
        if self.predecessor:
            self.log.notice("the instance that was taken over still has sessions and exits later")
            self.predecessor = None
