"""The helper's supervisor: a root process that only restarts the helper when it has died.

No other process could restart it, because all others have dropped root.
"""

import os
import select
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from setproctitle import setproctitle

from perdition.files import reread_file
from perdition.helper.channel import HELPER_RESTARTED, HelperChannel, Status
from perdition.helper.helper import IGNORED_SIGNALS, Helper, send_reply
from perdition.privileges import forbid_dumps

RESTART_SECONDS = 0.2
"""Delay before a helper that has died is restarted."""

SUPERVISOR_EXIT_SECONDS = 1.0
"""How long the master waits for the supervisor's exit: one that root has stopped may never exit."""


class Closable(Protocol):
    """A socket or file."""

    def close(self) -> None: ...


class HelperHandle:
    """The master's handle on the supervisor and its helper; ``pid`` is 0 if there is none."""

    def __init__(self) -> None:
        self.pid = 0
        self.channels: list[HelperChannel] = []

    def start(
        self,
        name: str,
        files: list[str],
        workers: int,
        lifeline: tuple[int, int],
        unneeded: Sequence[Closable],
        login_seconds: float,
    ) -> None:
        """Fork the supervisor, with a channel for the master and one for each worker."""
        self.channels = [HelperChannel(files) for _ in range(workers + 1)]
        self.pid = fork_supervisor(name, self.channels, lifeline, unneeded, login_seconds)

    def channel(self, worker: int) -> HelperChannel | None:
        """Return a worker's channel to the helper, if there is a helper."""
        return self.channels[worker] if self.channels else None

    def close_channels_except(self, worker: int) -> None:
        """Close all channels but that of a worker (0: all), so that no process uses another's."""
        for number, channel in enumerate(self.channels):
            if not worker or number != worker:
                channel.client_end.close()

    def read(self, path: str) -> bytes:
        """Return the content of a file, read by the helper if possible; raises StartupError."""
        if self.channels and path in self.channels[0].files:
            return self.channels[0].read_file(path)
        return reread_file(path)

    def has_exited(self) -> bool:
        """Return True once after the supervisor has exited."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
            return True
        return False

    def await_exit(self, signals: Iterable[int]) -> None:
        """Wait up to SUPERVISOR_EXIT_SECONDS until it has exited, because its lifeline was closed.

        ``signals`` are those that the master blocks, SIGCHLD among them.
        """
        deadline = time.monotonic() + SUPERVISOR_EXIT_SECONDS
        while self.pid and not self.has_exited() and time.monotonic() < deadline:
            signal.sigtimedwait(signals, SUPERVISOR_EXIT_SECONDS)


def fork_supervisor(
    name: str,
    channels: list[HelperChannel],
    lifeline: tuple[int, int],
    unneeded: Sequence[Closable],
    login_seconds: float,
) -> int:
    """Fork the supervisor, which runs until ``lifeline``'s writing end is closed; return its pid.

    Both it and the helper close what is ``unneeded``. Otherwise an address would stay in use after
    the process that serves it has exited.
    """
    pid = os.fork()
    if pid:
        for channel in channels:
            channel.helper_end.close()
        return pid
    try:
        os.close(lifeline[1])
        forbid_dumps()
        with suppress(PermissionError):
            os.setgroups([])  # drops root's supplementary groups
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in IGNORED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        discard_standard_streams()
        for held in (*unneeded, *(channel.client_end for channel in channels)):
            held.close()
        supervise(name, Helper(name, channels, lifeline[0], login_seconds))
    finally:
        os._exit(os.EX_OK)


def discard_standard_streams() -> None:
    """Redirect the standard streams to /dev/null: PAM modules may print; inetd's is the client."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


def supervise(name: str, helper: Helper) -> None:
    """Fork a helper, and another one whenever it has died, until the master has exited."""
    setproctitle(f"{name}: helper supervisor")
    while True:
        with suppress(OSError):  # no process can be forked now
            pid = os.fork()
            if not pid:
                try:
                    helper.serve()
                finally:
                    os._exit(os.EX_OK)
            os.waitpid(pid, 0)
        if select.select([helper.lifeline], [], [], RESTART_SECONDS)[0]:
            return
        for channel in helper.channels:
            send_reply(channel, HELPER_RESTARTED, Status.FAILED, b"")
