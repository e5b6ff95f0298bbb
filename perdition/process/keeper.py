"""The keeper: it stays root, and does nothing but replace a helper that has died.

Nobody else could: all others have given up root.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

from setproctitle import setproctitle

from perdition.configuration import read_file_again
from perdition.helper_line import STARTED_ANEW, Line, Status
from perdition.process.helper import ENDED_BY_LIFELINE, Helper, answer
from perdition.process.rights import hide

RESTART_SECONDS = 0.2
"""How soon a helper that has died is replaced."""
END_SECONDS = 1.0
"""How long the master waits for the keeper's end: one that root has stopped may never come."""


class Keeper:
    """The keeper and its helper as their master has them; there are none until they are needed."""

    def __init__(self) -> None:
        self.pid = 0
        self.lines: list[Line] = []

    def start(
        self,
        name: str,
        files: list[str],
        workers: int,
        lifeline: tuple[int, int],
        unneeded: list[socket.socket],
        login_seconds: float,
    ) -> None:
        """Fork the keeper; the master and each worker can ask its helper, for these files too."""
        self.lines = [Line(files) for _ in range(workers + 1)]
        self.pid = start(name, self.lines, lifeline, unneeded, login_seconds)

    def line(self, number: int) -> Line | None:
        """Return a worker's line to the helper, if there is one."""
        return self.lines[number] if self.lines else None

    def close_lines(self, number: int) -> None:
        """Close all lines but a worker's own (0: all): nobody asks in another's name."""
        for other, line in enumerate(self.lines):
            if not number or other != number:
                line.ours.close()

    def read(self, path: str) -> bytes:
        """Return a file, by the helper if only root can read it; raises StartupError."""
        if self.lines and path in self.lines[0].files:
            return self.lines[0].ask_for_file(path)
        return read_file_again(path)

    def has_died(self) -> bool:
        """Tell whether it has, once."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
            return True
        return False

    def await_end(self, signals: Iterable[int]) -> None:
        """Wait, not for ever, until it has ended at the end of its lifeline.

        Signals are those that the master blocks, SIGCHLD among them.
        """
        until = time.monotonic() + END_SECONDS
        while self.pid and not self.has_died() and time.monotonic() < until:
            signal.sigtimedwait(signals, END_SECONDS)


def start(
    name: str,
    lines: list[Line],
    pipe: tuple[int, int],
    unneeded: list[socket.socket],
    login_seconds: float,
) -> int:
    """Fork the keeper, who has a helper serve the lines while ``pipe``'s other end is open.

    ``unneeded`` are sockets that both close: an address is free when whoever serves it has gone.
    Returns its process id.
    """
    pid = os.fork()
    if pid:
        for line in lines:
            line.helpers.close()
        return pid
    try:
        os.close(pipe[1])
        hide()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in ENDED_BY_LIFELINE:
            signal.signal(number, signal.SIG_IGN)
        silence()
        for sock in (*unneeded, *(line.ours for line in lines)):
            sock.close()
        keep(name, Helper(name, lines, pipe[0], login_seconds))
    finally:
        os._exit(os.EX_OK)


def silence() -> None:
    """Let nothing that a module prints reach whoever our standard descriptors lead to."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    with suppress(PermissionError):
        os.setgroups([])


def keep(name: str, helper: Helper) -> None:
    """Fork a helper, and another one whenever it has died, until the master has gone."""
    setproctitle(f"{name}: keeper")
    while True:
        with suppress(OSError):  # the system may allow no further process for now
            pid = os.fork()
            if not pid:
                try:
                    helper.serve()
                finally:
                    os._exit(os.EX_OK)
            os.waitpid(pid, 0)
        if select.select([helper.lifeline], [], [], RESTART_SECONDS)[0]:
            return
        for line in helper.lines:
            answer(line, STARTED_ANEW, Status.FAILED, b"")
