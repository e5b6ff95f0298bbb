"""The master's children: forks, reaps and restarts them, and kills workers that are stuck."""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from perdition.client_limits import ClientLimits
from perdition.exit_status import describe_status
from perdition.log import Log, describe_error
from perdition.process.connection_limit import ConnectionLimit
from perdition.scoreboard import Column, Scoreboard, sessions_text

FORK_RETRY_SECONDS = 1.0
"""Delay in seconds after a fork that has failed."""

QUICK_EXIT_SECONDS = 1.0
"""A child that exits after less than this number of seconds is restarted with back-off."""

MAX_BACKOFF_SECONDS = 60.0

MAX_MISSED_HEARTBEATS = 5
"""Number of consecutive checks without a heartbeat after which a worker counts as stuck.

Checks are counted instead of seconds, because otherwise workers would count as stuck after the
machine was suspended.
"""

Run = Callable[["Slot", socket.socket], NoReturn]
"""Runs the process of a slot. It receives new options on the socket."""


class Slot:
    """A child's position: its process, or the time at which one is due (``due``, 0: none is).

    ``number`` is a worker's number, 0 for another child. ``heartbeats`` is the worker's counter at
    the last check.
    """

    def __init__(self, title: str, number: int = 0) -> None:
        self.title = title
        self.number = number
        self.pid = 0
        self.started = 0.0
        self.due = 0.0
        self.options_socket: socket.socket | None = None
        self.quick_exits = 0
        self.heartbeats = 0
        self.missed = 0

    def start(self, now: float, heartbeats: int) -> None:
        """Reset the slot for a new process."""
        self.started, self.due = now, 0.0
        self.heartbeats, self.missed = heartbeats, 0

    def schedule_restart(self, now: float) -> float:
        """Set the time of the restart after an unexpected exit; return the delay in seconds."""
        quick = now - self.started < QUICK_EXIT_SECONDS
        self.quick_exits = self.quick_exits + 1 if quick else 0
        delay = backoff(self.quick_exits)
        self.due = now + delay
        return delay

    def is_stuck(self, heartbeats: int) -> bool:
        """Check the worker's heartbeat counter; return whether too many heartbeats are missing."""
        self.missed = self.missed + 1 if heartbeats == self.heartbeats else 0
        self.heartbeats = heartbeats
        return self.missed >= MAX_MISSED_HEARTBEATS


class Children:
    """The workers, and the metrics process if there is one."""

    def __init__(
        self,
        workers: int,
        metrics: bool,
        run: Run,
        log: Log,
        connection_limit: ConnectionLimit | None,
    ) -> None:
        self.workers = [Slot(f"worker {number}", number) for number in range(1, workers + 1)]
        self.metrics = Slot("metrics")
        self.slots = [*self.workers, self.metrics] if metrics else self.workers
        self.scoreboard = Scoreboard(workers)
        self.client_limits = ClientLimits(workers)
        self.run = run
        self.log = log
        self.connection_limit = connection_limit
        self.stopping = False
        """Whether children that exit are not restarted."""

    def start_all(self) -> None:
        """Fork all children; those whose fork fails are due again, see ``start``."""
        for slot in self.slots:
            self.start(slot)

    def start(self, slot: Slot) -> None:
        """Fork a child; if that fails, schedule another attempt."""
        slot.start(time.monotonic(), self.heartbeats(slot))
        if slot.number:
            self.scoreboard.rows[slot.number - 1][Column.STARTED] += 1
        try:
            slot.options_socket, childs_end = socket.socketpair(
                socket.AF_UNIX, socket.SOCK_SEQPACKET
            )
            slot.pid = os.fork()
        except OSError as error:
            slot.due = slot.started + FORK_RETRY_SECONDS
            self.log.error(
                f"cannot fork {slot.title}: {error.strerror}; retrying in {FORK_RETRY_SECONDS:g} s"
            )
            return
        if slot.pid:
            childs_end.close()
            return
        try:
            for other in self.slots:
                if other.options_socket:
                    other.options_socket.close()  # the master's ends
            childs_end.setblocking(False)
            self.run(slot, childs_end)
        except BaseException as error:  # noqa: BLE001 - it is logged and ends the process
            self.log.error(f"{slot.title}: internal error: {describe_error(error)}")
        finally:
            os._exit(os.EX_SOFTWARE)

    def heartbeats(self, slot: Slot) -> int:
        """Return the counter that a worker increments while its event loop runs."""
        return self.scoreboard.rows[slot.number - 1][Column.HEARTBEATS] if slot.number else 0

    def all_serve(self) -> bool:
        """Return whether every worker has sent a heartbeat since it started or was last checked."""
        return all(self.heartbeats(slot) != slot.heartbeats for slot in self.workers)

    def has_failed_to_start(self) -> bool:
        """Return whether a worker has died, or could not be forked and is due again.

        Only during start-up: deaths are counted from then on.
        """
        return bool(self.scoreboard.total(Column.DIED) or self.due_times())

    def due_times(self) -> list[float]:
        """Return the times at which children are to be started."""
        return [slot.due for slot in self.slots if slot.due]

    def start_due(self, now: float) -> None:
        """Start the children that are due."""
        for slot in self.slots:
            if slot.due and slot.due <= now:
                self.start(slot)

    def reap(self) -> None:
        """Wait for each child that has exited, and schedule its restart."""
        for slot in self.slots:
            if slot.pid:
                pid, status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    self.handle_exit(slot, os.waitstatus_to_exitcode(status))

    def handle_exit(self, slot: Slot, code: int) -> None:
        """Log an exit, release what the child held, and schedule its restart unless stopping."""
        pid, slot.pid = slot.pid, 0  # first, so that no error below can leave a stale pid
        lost = self.release_resources(slot.number - 1) if slot.number else ""
        if self.stopping:
            if slot.number and code != os.EX_OK:
                self.log.error(f"{slot.title} (pid {pid}) {describe_exit(code)}{lost}")
            return
        delay = slot.schedule_restart(time.monotonic())
        self.log.error(
            f"{slot.title} (pid {pid}) {describe_exit(code)}{lost}; "
            f"restarting {f'in {delay:g} s' if delay else 'now'}"
        )

    def release_resources(self, row: int) -> str:
        """Release what a dead worker held; return the part of the log line about its sessions.

        The row of a broken worker may contain any number, so at most as many tokens as the limit
        are released.
        """
        counters = self.scoreboard.rows[row]
        lost = counters[Column.SESSIONS]
        counters[Column.DIED] += not self.stopping
        held = self.scoreboard.clear_gauges(row)
        self.client_limits.shares[row].clear_connections()
        if self.connection_limit and held:
            with suppress(BlockingIOError):
                self.connection_limit.release(min(held, self.connection_limit.limit))
        return f" with {sessions_text(lost)}"

    def kill_stuck(self) -> None:
        """Kill the workers that have missed too many heartbeats; they are restarted."""
        for slot in self.workers:
            if slot.pid and slot.is_stuck(self.heartbeats(slot)):
                sessions = self.scoreboard.rows[slot.number - 1][Column.SESSIONS]
                self.log.error(
                    f"{slot.title} (pid {slot.pid}) is stuck: no heartbeat in "
                    f"{MAX_MISSED_HEARTBEATS} checks; killing it with {sessions_text(sessions)}"
                )
                os.kill(slot.pid, signal.SIGKILL)

    def send_options(self, pickled: bytes) -> None:
        """Send new options to every worker; one that has died is restarted with them."""
        for slot in self.workers:
            if slot.pid and slot.options_socket:
                try:
                    slot.options_socket.send(pickled, socket.MSG_DONTWAIT)
                except ConnectionError:
                    pass  # it has died
                except OSError as error:
                    self.log.error(
                        f"{slot.title} (pid {slot.pid}) keeps the old configuration: "
                        f"{error.strerror}; send SIGHUP again"
                    )

    def signal_workers(self, number: signal.Signals) -> None:
        for slot in self.workers:
            if slot.pid:
                os.kill(slot.pid, number)

    def stop(self, number: signal.Signals) -> None:
        """Tell the workers to stop as the signal says, and restart no child any more."""
        self.stopping = True
        for slot in self.slots:
            slot.due = 0.0
        self.signal_workers(number)

    def kill_metrics(self) -> None:
        """Kill the metrics process, which has nothing to clean up."""
        if self.metrics.pid:
            os.kill(self.metrics.pid, signal.SIGKILL)
            os.waitpid(self.metrics.pid, 0)
            self.metrics.pid = 0

    def workers_left(self) -> int:
        """Return the number of workers that have not exited."""
        return sum(1 for slot in self.workers if slot.pid)


def backoff(quick_exits: int) -> float:
    """Return the delay in seconds after that many quick exits in a row: 0, 1, 2, 4..."""
    return min(2.0 ** (quick_exits - 2), MAX_BACKOFF_SECONDS) if quick_exits > 1 else 0.0


def describe_exit(code: int) -> str:
    """Return how a child exited, for the log; status 0 means that somebody else has stopped it."""
    if code == os.EX_OK:
        return "exited with status 0 (stopped from outside)"
    if code == -signal.SIGPROF:
        return "was killed by SIGPROF: event loop stalled"
    return describe_status(code)
