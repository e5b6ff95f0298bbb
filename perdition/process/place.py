"""Where others find a master: its pid file, the socket for the next one, the service manager."""

import os
import socket
from collections.abc import Callable, Iterator

from perdition.failure import StartupError
from perdition.log import Log
from perdition.options import Options
from perdition.process.handover import Estate, Handover, Predecessor, Word
from perdition.process.pid_file import PidFile
from perdition.process.rights import Owner
from perdition.process.service_manager import notify

RUN_DIRECTORY = "/var/run"


class Place:
    """The place of a master, who has it from nobody or from a predecessor.

    ``is_ours`` tells whether it is this master that others find there.
    """

    def __init__(self, name: str, options: Options, owner: Owner, log: Log) -> None:
        """Find the predecessor, if the place is to be taken over; raises StartupError."""
        self.options = options
        self.log = log
        self.pid_file = named_pid_file(name, options.pid_file, owner)
        self.is_ours = False
        self.handover: Handover | None = None
        self.predecessor: Predecessor | None = None
        if options.takeover:
            if not self.pid_file:
                raise StartupError("takeover: give the pid_file of the perdition that runs")
            self.predecessor = Predecessor(self.pid_file.handover)

    def estate(self) -> Estate:
        """Return what the predecessor passes on, if there is one; raises StartupError."""
        return self.predecessor.estate() if self.predecessor else Estate()

    def prepare(self, estate: Estate) -> None:
        """See to it that the pid file can be written, and that another master can find us by it.

        A user who cannot write to the default place, and has named no other, goes without. Raises
        StartupError.
        """
        if not self.pid_file:
            return
        try:
            if self.predecessor:
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
            self.handover = Handover(self.pid_file.handover, estate.handover)
        except StartupError as error:
            self.log.notice(f"no takeover will be possible: {error}")

    def claim(self) -> None:
        """Take the place, if nobody has it; raises StartupError."""
        if self.predecessor:
            return
        if self.pid_file:
            self.pid_file.write()
        self.is_ours = True

    def take_over(self) -> None:
        """Take the predecessor's place; raises StartupError."""
        assert self.predecessor
        self.predecessor.check()
        if self.pid_file:
            self.pid_file.take_over()
        self.predecessor.take_place()
        self.is_ours = True

    def leave_predecessor(self) -> None:
        """Leave the place to the predecessor, if there is one."""
        if self.predecessor:
            self.predecessor.line.close()
            self.predecessor = None

    def tell_predecessor(self, word: Word) -> None:
        """Tell the predecessor something, if its sessions still go on."""
        if self.predecessor:
            self.predecessor.say(word)

    def await_successor(self) -> None:
        """Have this process sent SIGIO when another master comes, or says something."""
        if self.handover:
            self.handover.wake()

    def hear_successor(self, estate: Callable[[], Estate]) -> Iterator[Word]:
        """Let another master in, to have the estate, and yield what it says."""
        if self.handover:
            yield from self.handover.hear(estate)

    def tell(self, *assignments: str) -> None:
        """Tell the service manager something, while this is the master that it looks after."""
        if self.is_ours:
            notify(*assignments)

    def close(self) -> None:
        """Let no more successors in; one may have taken over."""
        if self.handover:
            self.handover.retire(taken=not self.is_ours)

    def remove(self) -> None:
        """Take away what others would find."""
        if self.pid_file:
            self.pid_file.remove()
        if self.handover:
            self.handover.remove()

    def sockets(self) -> list[socket.socket]:
        """Return what none but the master may hold."""
        own = self.handover.sockets() if self.handover else []
        return [*own, self.predecessor.line] if self.predecessor else own

    def descriptors(self) -> list[int]:
        """Return what must stay open when the master detaches."""
        held = [self.pid_file.held] if self.pid_file and self.pid_file.held >= 0 else []
        return [*(sock.fileno() for sock in self.sockets()), *held]


def named_pid_file(name: str, path: str | None, owner: Owner) -> PidFile | None:
    """Return the pid file that the option names (None: the manual's), if there is to be one."""
    if path is None:
        path = f"{RUN_DIRECTORY}/{name}/{name}.pid"
    return PidFile(path, owner) if path else None
