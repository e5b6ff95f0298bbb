"""The log: syslog, a file, standard output or standard error."""

import os
import select
import socket
import stat
import time
from contextlib import suppress
from enum import IntEnum
from typing import Protocol

from perdition.failure import StartupError

SYSLOG_SOCKET = "/dev/log"

FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7,
    "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
    **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip


class Priority(IntEnum):
    """Priorities of lines, with syslog's numbers."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


class Sink(Protocol):
    """Where lines go."""

    descriptor: int
    """The descriptor that must stay open when the process detaches; -1: none."""

    def write(self, priority: Priority, line: str) -> None:
        """Write a line, or drop it if the log does not accept it: no session waits for the log."""

    def reopen(self) -> None:
        """Reopen the log after a rotation; raises OSError and keeps the old one open on failure."""


class Syslog:
    """Writes to syslogd without ever waiting for it, unlike syslog(3)."""

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
        """Return a socket that is connected to syslogd; raises OSError."""
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
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.may_block = not stat.S_ISREG(os.fstat(descriptor).st_mode)

    def write(self, priority: Priority, line: str) -> None:
        data = line.encode(errors="surrogateescape")
        if self.may_block:
            # A pipe accepts up to PIPE_BUF bytes in one piece or not at all.
            data = data[: select.PIPE_BUF - 1]
            if not self.is_writable():
                return
        with suppress(OSError):
            os.write(self.descriptor, data + b"\n")

    def is_writable(self) -> bool:
        """Return whether a write would not block."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def reopen(self) -> None:
        pass


class File(Output):
    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(self.opened())

    def opened(self) -> int:
        """Return a descriptor of the file; raises OSError.

        Root does not follow a link in a directory of another user, who could point it at any file.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        if os.geteuid() == 0 and os.stat(os.path.dirname(self.path)).st_uid != 0:
            flags |= os.O_NOFOLLOW
        return os.open(self.path, flags, 0o640)

    def chown(self, uid: int, gid: int) -> None:
        """Change the file's owner, so that it can be reopened without root.

        Devices and pipes are not rotated and keep their owner.
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
                f"log_facility {facility}: {error.strerror}; expected a file that can be written"
            ) from error
    if facility.lower() not in FACILITIES:
        raise StartupError(
            f"log_facility {facility}: unknown; expected -, +, a path or one of "
            + ", ".join(FACILITIES)
        )
    return Syslog(FACILITIES[facility.lower()])


def printable(text: str) -> str:
    """Return a peer's text for use between quotes in a log line.

    Quotes become ``\\x22``; other characters are escaped as in ``one_line``.
    """
    return one_line(text).replace('"', r"\x22")


def one_line(text: str) -> str:
    """Escape what a log reader or a terminal could interpret.

    These are all characters that Unicode does not call printable: control and format characters,
    separators other than the space, unassigned characters; and bytes that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else escape_sequence(one) for one in text)


def escape_sequence(character: str) -> str:
    """Return ``\\xNN``, ``\\uNNNN`` or ``\\UNNNNNNNN``."""
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8 (surrogateescape)
        number &= 0xFF
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def describe_error(error: BaseException) -> str:
    """Return the type and place of an exception, but not its text: it may contain a password."""
    where = error.__traceback__
    while where and where.tb_next:
        where = where.tb_next
    place = f" in {where.tb_frame.f_code.co_filename} line {where.tb_lineno}" if where else ""
    return type(error).__name__ + place


class Log:
    """Writes lines with time, program name and process id."""

    def __init__(self, name: str, sink: Sink, debug: bool = False, quiet: bool = False) -> None:
        self.name = name
        self.sink = sink
        self.set_verbosity(debug, quiet)
        self.stamp = (0, "")
        self.pid = os.getpid()
        os.register_at_fork(after_in_child=self.update_pid)

    def set_verbosity(self, debug: bool, quiet: bool) -> None:
        """Set which priorities are logged; debug overrides quiet."""
        self.debugging = debug
        self.quiet = quiet and not debug

    def update_pid(self) -> None:
        """Store this process's id: to ask for it with each line would cost a system call."""
        self.pid = os.getpid()

    def write(self, priority: Priority, text: str) -> None:
        """Write a line, if its priority is to be logged."""
        if priority is Priority.DEBUG and not self.debugging:
            return
        if self.quiet and priority > Priority.ERROR:
            return
        line = f"{self.timestamp()} {self.name}[{self.pid}]: {one_line(text)}"
        self.sink.write(priority, line)

    def timestamp(self) -> str:
        """Return the time in syslog's format (RFC 3164), formatted once a second."""
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

    def internal_error(self, error: BaseException) -> None:
        """Log an unexpected exception: its type and place, but not its text."""
        self.error(f"internal error: {describe_error(error)}")

    def chown(self, uid: int, gid: int) -> None:
        """Change the owner of the log file, if the log is a file."""
        if isinstance(self.sink, File):
            with suppress(OSError):
                self.sink.chown(uid, gid)

    def reopen(self) -> None:
        """Reopen the file, after it was rotated; keep the old one if that fails."""
        try:
            self.sink.reopen()
        except OSError as error:
            self.error(f"cannot reopen the log, keeping the old one: {error.strerror}")
