"""What makes a process a daemon: its user and group, its pid file, its way off the terminal."""

import ctypes
import grp
import os
import pwd
import resource
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import daemon.daemon
from lockfile import AlreadyLocked, LockFailed, UnlockError
from lockfile.pidlockfile import PIDLockFile

from perdition.failure import StartupError
from perdition.options import OPTIONS, Options

UMASK = 0o027
PID_DIRECTORY_MODE = 0o750
PID_FILE_MODE = 0o660
HIGHEST_ID = 0xFFFFFFFE
HIGHEST_PID = 0x7FFFFFFF
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38


class Owner(NamedTuple):
    """Whom processes and files belong to."""

    uid: int
    gid: int

    @classmethod
    def wanted(cls, options: Options) -> "Owner":
        """Return the user and group that the options name; raises StartupError.

        Who is not root cannot become anybody else, and stays who it is unless asked to.
        """
        owner = cls(user_id(options.username), group_id(options.group))
        if os.getuid() == 0:
            return owner
        mine = cls(os.getuid(), os.getgid())
        for name, wanted, own in (
            ("username", owner.uid, mine.uid),
            ("group", owner.gid, mine.gid),
        ):
            value = getattr(options, name)
            if value != OPTIONS[name].default and wanted != own:
                raise StartupError(f"{name} {value}: only root can change it; leave it off")
        return mine

    def become(self) -> None:
        """Become this owner for good, without supplementary groups."""
        if os.getuid() == 0:
            os.setgroups([])
            daemon.daemon.change_process_owner(self.uid, self.gid)

    def give(self, path: Path) -> None:
        """Make a file or directory this owner's: itself, not what a link in its place leads to."""
        if os.getuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Act as this owner for a while, so that nothing is done that this owner could not do."""
        if os.getuid() != 0:
            yield
            return
        root = os.getegid()
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(root)


def user_id(name: str) -> int:
    """Return a user's number; raises StartupError."""
    if name.isdecimal():
        return checked_id("username", name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise StartupError(f"username {name}: no such user; give one that there is") from None


def group_id(name: str) -> int:
    """Return a group's number; raises StartupError."""
    if name.isdecimal():
        return checked_id("group", name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartupError(f"group {name}: no such group; give one that there is") from None


def checked_id(option: str, number: str) -> int:
    """Return a number that a user or group can have; raises StartupError."""
    if not number.isascii() or int(number) > HIGHEST_ID:
        raise StartupError(f"{option} {number}: no such number; give one up to {HIGHEST_ID}")
    return int(number)


class PidFile:
    """The file that tells the master's process id while it runs."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self.path = path
        self.owner = owner
        self.lock = PIDLockFile(str(path))
        self.held = -1

    @property
    def handover(self) -> Path:
        """The socket beside it, by which another master takes the place of the one that runs."""
        return self.path.with_name(f"{self.path.name}.takeover")

    def prepare(self) -> None:
        """Make the directory, and remove what a master that is no more has left.

        Raises StartupError if another master runs, or nothing can be written there.
        """
        directory = self.path.parent
        try:
            if not directory.is_dir():
                directory.mkdir(parents=True)
                directory.chmod(PID_DIRECTORY_MODE)
                self.owner.give(directory)
            if self.path.exists():
                self.remove_stale()
        except OSError as error:
            raise StartupError(
                f"pid_file {self.path}: {error.strerror}; give a file that can be written, "
                "or an empty name for none"
            ) from error
        if not os.access(directory, os.W_OK):
            raise StartupError(f"pid_file {self.path}: its directory cannot be written; change it")

    def remove_stale(self) -> None:
        """Remove the file of a process that is no more; raises StartupError for any other."""
        try:
            pid = self.lock.read_pid() or 0
        except ValueError:
            pid = 0  # no text at all
        if not 0 < pid <= HIGHEST_PID:
            raise StartupError(
                f"pid_file {self.path}: no process id in it; remove it if perdition does not run"
            )
        if process_exists(pid):
            raise StartupError(
                f"pid_file {self.path}: process {pid} runs; end it if it is perdition, "
                "else remove the file"
            )
        self.lock.break_lock()

    def write(self) -> None:
        """Write the file; raises StartupError."""
        try:
            with self.rights():
                self.lock.acquire(timeout=0)
                self.path.chmod(PID_FILE_MODE)
                if os.geteuid() == 0:
                    self.owner.give(self.path)
        except (AlreadyLocked, LockFailed, OSError) as error:
            raise StartupError(f"pid_file {self.path}: cannot be written: {error}") from error

    def rights(self) -> AbstractContextManager[None]:
        """Return what to write in the file's directory with.

        In the owner's own directory anybody of that name could put another file in its place
        meanwhile: there it is written as the owner. Elsewhere nobody but root could.
        """
        belongs_to_owner = self.path.parent.stat().st_uid == self.owner.uid
        return self.owner.acting() if belongs_to_owner else nullcontext()

    def hold(self) -> None:
        """Open the file of the master whose place is to be taken, before the rights to are gone.

        Raises StartupError.
        """
        try:
            with self.rights():
                self.held = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise StartupError(
                f"pid_file {self.path}: {error.strerror}; restart perdition instead"
            ) from error

    def take_over(self) -> None:
        """Put our own process id in the place of the other master's.

        Raises StartupError if the file is no more: its master takes it away when it is told to end,
        and nobody would find this one.
        """
        number = b"%d\n" % os.getpid()
        try:
            os.pwrite(self.held, number, 0)
            os.ftruncate(self.held, len(number))
            is_gone = not os.fstat(self.held).st_nlink
        except OSError as error:
            raise StartupError(f"pid_file {self.path}: {error.strerror}") from error
        finally:
            os.close(self.held)
            self.held = -1
        if is_gone:
            raise StartupError(f"pid_file {self.path}: the running perdition has ended meanwhile")

    def remove(self) -> None:
        """Remove the file, if its directory lets us; one that stays is stale to the next start."""
        with suppress(OSError, UnlockError):
            self.lock.release()


def process_exists(pid: int) -> bool:
    """Tell whether there is such a process, whosever it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def detach(preserved: Iterable[int]) -> int:
    """Go on without the terminal, in a new process; return what ``release_parent`` wants.

    This process waits until it is released, and ends with 0, or until the new one has died, and
    ends with 1. Descriptors are closed except those that are to be ``preserved``.
    """
    source, sink = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(sink)
        os._exit(os.EX_OK if os.read(source, 1) else 1)
    os.close(source)
    daemon.DaemonContext(
        detach_process=True,
        files_preserve=[*preserved, sink],
        umask=UMASK,
        signal_map={},
    ).open()
    return sink


def release_parent(sink: int) -> None:
    """Let the process that was started end: everything runs."""
    os.write(sink, b"\0")
    os.close(sink)


def bind_masked(sock: socket.socket, path: Path, mask: int) -> None:
    """Bind a Unix socket, whose file never has more rights than a umask leaves; raises OSError."""
    before = os.umask(mask)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)


def die_with_parent() -> None:
    """Have the system end this process when the one that forked it has died, however it died."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def renounce() -> None:
    """Give up, for good, what no worker needs: rights by running other programs, and being looked
    into by others of the same user. Where the system has no such call, nothing is lost.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def harden() -> None:
    """Leave no core with passwords in it, and use all the descriptors that the system allows."""
    daemon.daemon.prevent_core_dump()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
