"""The log: syslog, a file, standard output or standard error; and its three lines a session.

perdition's lines are the manual's: Connect, Auth and Close (see "POP before SMTP" there).
"""

import os
import re
import select
import socket
import stat
import time
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple, Protocol

from perdition.failure import StartupError

SYSLOG_SOCKET = "/dev/log"

FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7,
    "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
    **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip


class Priority(IntEnum):
    """How much a line matters, by syslog's numbers."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


class Sink(Protocol):
    """Where lines go."""

    descriptor: int
    """What must stay open when everything else is closed; -1: nothing."""

    def write(self, priority: Priority, line: str) -> None:
        """Write a line, or lose it: a log that is stuck must stop no session."""

    def reopen(self) -> None:
        """Begin anew, as after a rotation; raises OSError, and then goes on as before."""


class Syslog:
    """The system's log, by datagrams."""

    def __init__(self, facility: int) -> None:
        self.facility = facility
        self.descriptor = -1
        self.socket: socket.socket | None = None

    def write(self, priority: Priority, line: str) -> None:
        message = f"<{self.facility * 8 + priority}>{line}".encode(errors="surrogateescape")
        for _ in range(2):
            try:
                self.connected().send(message)
            except BlockingIOError:
                return
            except OSError:
                self.reopen()
            else:
                return

    def connected(self) -> socket.socket:
        """Return a socket that leads to syslogd; raises OSError."""
        if not self.socket:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            self.socket = socket.socket(socket.AF_UNIX, kind)
            self.socket.connect(SYSLOG_SOCKET)
        return self.socket

    def reopen(self) -> None:
        if self.socket:
            with suppress(OSError):
                self.socket.close()
            self.socket = None


class Output:
    """Standard output or standard error."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.may_block = not stat.S_ISREG(os.fstat(descriptor).st_mode)

    def write(self, priority: Priority, line: str) -> None:
        octets = f"{line}\n".encode(errors="surrogateescape")
        if self.may_block:
            octets = octets[: select.PIPE_BUF]  # so much a pipe takes whole, once it takes any
            if not self.takes_more():
                return
        with suppress(OSError):
            os.write(self.descriptor, octets)

    def takes_more(self) -> bool:
        """Tell whether a write would not wait."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def reopen(self) -> None:
        pass


class File(Output):
    """A file that lines are added to."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(self.opened())

    def opened(self) -> int:
        """Return a descriptor of the file; raises OSError.

        Whoever owns its directory could lead root by a link to any file, to write to and give away.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        if os.geteuid() == 0 and os.stat(os.path.dirname(self.path)).st_uid != 0:
            flags |= os.O_NOFOLLOW
        return os.open(self.path, flags, 0o640)

    def give(self, uid: int, gid: int) -> None:
        """Let a user open the file anew after a rotation, when root is no more.

        A device or a pipe is not rotated, and others may have a use for it.
        """
        if not self.may_block:
            os.fchown(self.descriptor, uid, gid)

    def reopen(self) -> None:
        new = self.opened()
        os.dup2(new, self.descriptor, inheritable=False)
        os.close(new)


def open_sink(facility: str) -> Sink:
    """Open what ``--log_facility`` names; raises StartupError."""
    if facility in ("-", "+"):
        return Output(1 if facility == "-" else 2)
    if facility.startswith("/"):
        try:
            return File(facility)
        except OSError as error:
            raise StartupError(
                f"log_facility {facility}: {error.strerror}; give a file that can be written"
            ) from error
    if facility.lower() not in FACILITIES:
        raise StartupError(
            f"log_facility {facility}: unknown; give -, +, a path or one of "
            + ", ".join(FACILITIES)
        )
    return Syslog(FACILITIES[facility.lower()])


CONTROLS = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]")
UNPRINTABLE = re.compile(r'[\0-\x1f"\x7f-\x9f\ud800-\udfff]')


def printable(text: str) -> str:
    """Return a peer's text as it may stand between quotes in a line.

    What would end the line or the quotes, or is no character at all, becomes ``\\xNN``.
    """
    return UNPRINTABLE.sub(escaped, text)


def escaped(found: re.Match[str]) -> str:
    """Return what stands for a character in a line."""
    return f"\\x{ord(found[0]) & 0xFF:02x}"


def fault(error: BaseException) -> str:
    """Say where a fault of ours is, but not what about, which may be a password."""
    where = error.__traceback__
    while where and where.tb_next:
        where = where.tb_next
    place = f" in {where.tb_frame.f_code.co_filename} line {where.tb_lineno}" if where else ""
    return type(error).__name__ + place


class Log:
    """Lines with the name, the process and the time in front."""

    def __init__(self, name: str, sink: Sink, debug: bool = False, quiet: bool = False) -> None:
        self.name = name
        self.sink = sink
        self.adapt(debug, quiet)
        self.stamp = (0, "")
        self.pid = os.getpid()
        os.register_at_fork(after_in_child=self.note_pid)

    def adapt(self, debug: bool, quiet: bool) -> None:
        """Write more or fewer lines from now on; debug goes before quiet."""
        self.debugging = debug
        self.quiet = quiet and not debug

    def note_pid(self) -> None:
        """Learn the number of this process: asking for it with each line costs a system call."""
        self.pid = os.getpid()

    def write(self, priority: Priority, text: str) -> None:
        """Write a line of whatever priority the options want to see."""
        if priority is Priority.DEBUG and not self.debugging:
            return
        if self.quiet and priority > Priority.ERROR:
            return
        line = f"{self.timestamp()} {self.name}[{self.pid}]: {CONTROLS.sub(escaped, text)}"
        self.sink.write(priority, line)

    def timestamp(self) -> str:
        """Return the time as syslog has it (RFC 3164), made anew each second."""
        now = int(time.time())
        if now != self.stamp[0]:
            self.stamp = (now, time.strftime("%b %e %H:%M:%S", time.localtime(now)))
        return self.stamp[1]

    def error(self, text: str) -> None:
        self.write(Priority.ERROR, text)

    def warning(self, text: str) -> None:
        self.write(Priority.WARNING, text)

    def notice(self, text: str) -> None:
        self.write(Priority.NOTICE, text)

    def info(self, text: str) -> None:
        self.write(Priority.INFO, text)

    def debug(self, text: str) -> None:
        self.write(Priority.DEBUG, text)

    def give(self, uid: int, gid: int) -> None:
        """Make the log's file a user's, if it is one of ours to give away."""
        if isinstance(self.sink, File):
            with suppress(OSError):
                self.sink.give(uid, gid)

    def reopen(self) -> None:
        """Open the file anew, after it was rotated; keep the old one if that cannot be."""
        try:
            self.sink.reopen()
        except OSError as error:
            self.error(f"the log cannot be opened anew, the old one is kept: {error.strerror}")


class Login(NamedTuple):
    """A login as its Auth line tells it. ``password`` is None where it must not be logged."""

    authorisation: str
    user: str
    server: str
    protocol: str
    client_secure: str
    server_secure: str
    status: str
    password: str | None = None


def connect_line(ends: object, inetd_pid: int = 0) -> str:
    """Return the line of a client that has connected."""
    return f"Connect: {ends}" + (f" {inetd_pid=}" if inetd_pid else "")


def identities(authorisation: str, user: str) -> str:
    """Return who logs in, as Auth and Close lines have it."""
    return f'authorisation_id="{printable(authorisation)}" authentication_id="{printable(user)}"'


def auth_line(ends: object, login: Login) -> str:
    """Return the line of a login, ok or failed."""
    password = "" if login.password is None else f' password="{printable(login.password)}"'
    return (
        f"Auth: {ends} client-secure={login.client_secure} "
        f"{identities(login.authorisation, login.user)}{password} "
        f'server="{printable(login.server)}" protocol={login.protocol} '
        f"server-secure={login.server_secure} status={login.status}"
    )


def close_line(ends: object, authorisation: str, user: str, moved: tuple[int, int] | None) -> str:
    """Return the line of a client that has gone.

    ``moved`` are the octets received from it and sent to it after its login, if it had one.
    """
    octets = "" if moved is None else f" received={moved[0]} sent={moved[1]}"
    return f"Close: {ends} {identities(authorisation, user)}{octets}"
