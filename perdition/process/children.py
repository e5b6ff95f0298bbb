"""A master's children: forked, buried and replaced, and killed when they are stuck."""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from perdition.clients import Clients
from perdition.log import Log, fault
from perdition.process.scoreboard import Counter, Scoreboard, in_words
from perdition.process.tokens import Tokens

RETRY_SECONDS = 1.0
"""How soon a fork is tried again that the system has refused."""
QUICK_DEATH_SECONDS = 1.0
"""A child that has lived less long has died at once."""
LONGEST_BACKOFF_SECONDS = 60.0
MISSED_BEATS = 5
"""So many looks in a row at a worker that has not moved, and it is stuck.

Looks are counted, not seconds: a machine that stood still itself has no stuck workers.
"""

Serve = Callable[["Slot", socket.socket], NoReturn]
"""Does what a slot is for, in its process; orders come by the socket."""


class Slot:
    """A child's place: who has it, since when, or when the next one may.

    ``number`` is a worker's, and 0 for who is none. ``beats`` is what its row of the scoreboard
    had at the last look.
    """

    def __init__(self, title: str, number: int = 0) -> None:
        self.title = title
        self.number = number
        self.pid = 0
        self.started = 0.0
        self.due = 0.0
        self.orders: socket.socket | None = None
        self.quick_deaths = 0
        self.beats = 0
        self.missed = 0

    def begin(self, now: float, beats: int) -> None:
        """Note that a child is about to have this place."""
        self.started, self.due = now, 0.0
        self.beats, self.missed = beats, 0

    def bereave(self, now: float) -> float:
        """Note a death that nobody asked for; return the seconds until the next one starts."""
        quick = now - self.started < QUICK_DEATH_SECONDS
        self.quick_deaths = self.quick_deaths + 1 if quick else 0
        delay = backoff(self.quick_deaths)
        self.due = now + delay
        return delay

    def is_stuck(self, beats: int) -> bool:
        """Tell, at a look, whether the child has not moved for too many of them."""
        self.missed = self.missed + 1 if beats == self.beats else 0
        self.beats = beats
        return self.missed >= MISSED_BEATS


class Children:
    """The workers, and the process that tells metrics if there is one."""

    def __init__(
        self,
        workers: int,
        metrics: bool,
        serve: Serve,
        log: Log,
        tokens: Tokens | None,
    ) -> None:
        self.workers = [Slot(f"worker {number}", number) for number in range(1, workers + 1)]
        self.metrics = Slot("metrics")
        self.all = [*self.workers, self.metrics] if metrics else self.workers
        self.scoreboard = Scoreboard(workers)
        self.clients = Clients(workers)
        self.serve = serve
        self.log = log
        self.tokens = tokens
        self.ending = False
        """Whether who dies now has no successor."""

    def start_all(self) -> None:
        """Fork all of them."""
        for slot in self.all:
            self.start(slot)

    def start(self, slot: Slot) -> None:
        """Fork a child."""
        slot.begin(time.monotonic(), self.beats(slot))
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
            for other in self.all:
                if other.orders:
                    other.orders.close()  # nobody but the master gives orders
            orders.setblocking(False)
            self.serve(slot, orders)
        except BaseException as error:  # noqa: BLE001 - it is logged and ends the process
            self.log.error(f"{slot.title} has failed: {fault(error)}")
        finally:
            os._exit(os.EX_SOFTWARE)

    def beats(self, slot: Slot) -> int:
        """Return how often a worker has shown that its loop turns."""
        return self.scoreboard.rows[slot.number - 1][Counter.BEATS] if slot.number else 0

    def serving(self) -> bool:
        """Tell whether every worker has begun to serve, or moved since the last look."""
        return all(self.beats(slot) != slot.beats for slot in self.workers)

    def failing(self) -> bool:
        """Tell whether a worker has died, or could not be forked and is to be tried again."""
        return bool(self.scoreboard.total(Counter.DIED) or self.next_due())

    def next_due(self) -> list[float]:
        """Return the times at which children start."""
        return [slot.due for slot in self.all if slot.due]

    def start_due(self, now: float) -> None:
        """Start the children whose time has come."""
        for slot in self.all:
            if slot.due and slot.due <= now:
                self.start(slot)

    def bury(self) -> None:
        """Note each child that has died, and when the next one takes its place."""
        for slot in self.all:
            if slot.pid:
                pid, status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    self.note_death(slot, os.waitstatus_to_exitcode(status))

    def note_death(self, slot: Slot, code: int) -> None:
        """Free a dead child's slot, and what it held; it has a successor unless all are to end."""
        pid, slot.pid = slot.pid, 0  # it has no number any more, whatever goes wrong below
        lost = self.take_back(slot.number - 1) if slot.number else ""
        if self.ending:
            if slot.number and code != os.EX_OK:
                self.log.error(f"{slot.title} (pid {pid}) {end_of(code)}{lost}")
            return
        delay = slot.bereave(time.monotonic())
        self.log.error(
            f"{slot.title} (pid {pid}) {end_of(code)}{lost}; "
            f"a new one starts {f'in {delay:g} s' if delay else 'now'}"
        )

    def take_back(self, row: int) -> str:
        """Count a dead worker, take back what it held, and return what the log tells of that.

        One that has run wild may have left any number, but not more tokens than there are.
        """
        counters = self.scoreboard.rows[row]
        lost = counters[Counter.SESSIONS]
        counters[Counter.DIED] += not self.ending
        held = self.scoreboard.take_back_tokens(row)
        self.clients.shares[row].clear_connections()
        if self.tokens and held:
            with suppress(BlockingIOError):
                self.tokens.put_back(min(held, self.tokens.limit))
        return f" with {in_words(lost)}"

    def look_after(self) -> None:
        """Kill the workers that are stuck, so that others take their places."""
        for slot in self.workers:
            if slot.pid and slot.is_stuck(self.beats(slot)):
                self.log.error(f"{slot.title} (pid {slot.pid}) is stuck and is killed")
                os.kill(slot.pid, signal.SIGKILL)

    def order(self, order: bytes) -> None:
        """Send an order to every worker; one that dies meanwhile has a successor that knows."""
        for slot in self.workers:
            if slot.pid and slot.orders:
                with suppress(OSError):
                    slot.orders.send(order, socket.MSG_DONTWAIT)

    def signal_workers(self, number: signal.Signals) -> None:
        """Send a signal to every worker."""
        for slot in self.workers:
            if slot.pid:
                os.kill(slot.pid, number)

    def end(self, how: signal.Signals) -> None:
        """Have the workers end, as a signal tells them to, and replace nobody any more."""
        self.ending = True
        for slot in self.all:
            slot.due = 0.0
        self.signal_workers(how)

    def end_metrics(self) -> None:
        """End the process that tells metrics, which has nothing to finish."""
        if self.metrics.pid:
            os.kill(self.metrics.pid, signal.SIGKILL)
            os.waitpid(self.metrics.pid, 0)
            self.metrics.pid = 0

    def left(self) -> bool:
        """Tell whether a worker is left."""
        return any(slot.pid for slot in self.workers)


def backoff(quick_deaths: int) -> float:
    """Return the seconds to wait after so many deaths in a row that came at once: 0, 1, 2, 4..."""
    return min(2.0 ** (quick_deaths - 2), LONGEST_BACKOFF_SECONDS) if quick_deaths > 1 else 0.0


def end_of(code: int) -> str:
    """Return how a child has ended, for the log; one that succeeded was told to, not by us."""
    if code == os.EX_OK:
        return "has ended as it was told"
    if code == -signal.SIGPROF:
        return "has spun, and served nobody any more"
    return f"died of {signal.Signals(-code).name if code < 0 else f'status {code}'}"
