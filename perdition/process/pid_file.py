"""The file that tells the master's process id, by which others find it."""

import os
from contextlib import AbstractContextManager, nullcontext, suppress

from lockfile import AlreadyLocked, LockFailed, UnlockError
from lockfile.pidlockfile import PIDLockFile

from perdition.failure import StartupError
from perdition.process.rights import Owner

DIRECTORY_MODE = 0o750
FILE_MODE = 0o660
HIGHEST_PID = 0x7FFFFFFF


class PidFile:
    """The file that tells the master's process id while it runs."""

    def __init__(self, path: str, owner: Owner) -> None:
        self.path = path
        self.owner = owner
        self.directory = os.path.dirname(path)
        self.lock = PIDLockFile(path)
        self.held = -1

    @property
    def handover(self) -> str:
        """The socket beside it, by which another master takes the place of the one that runs."""
        return f"{self.path}.takeover"

    def prepare(self) -> None:
        """Make the directory, and remove what a master that is no more has left.

        Raises StartupError if another master runs, or nothing can be written there.
        """
        try:
            if not os.path.isdir(self.directory):
                os.makedirs(self.directory)
                os.chmod(self.directory, DIRECTORY_MODE)
                self.owner.give(self.directory)
            if os.path.exists(self.path):
                self.remove_stale()
        except OSError as error:
            raise StartupError(
                f"pid_file {self.path}: {error.strerror}; give a file that can be written, "
                "or an empty name for none"
            ) from error
        if not os.access(self.directory, os.W_OK):
            raise StartupError(f"pid_file {self.path}: its directory cannot be written; change it")

    def remove_stale(self) -> None:
        """Remove the file of a process that is no more; raises StartupError for any other.

        Nor is anything else read that may be there, such as a pipe that nobody writes to.
        """
        if not os.path.isfile(self.path):
            raise StartupError(f"pid_file {self.path}: this is no file; remove it")
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
                os.chmod(self.path, FILE_MODE)
                if os.geteuid() == 0:
                    self.owner.give(self.path)
        except (AlreadyLocked, LockFailed, OSError) as error:
            raise StartupError(f"pid_file {self.path}: cannot be written: {error}") from error

    def rights(self) -> AbstractContextManager[None]:
        """Return what to write in the file's directory with.

        In the owner's own directory anybody of that name could put another file in its place
        meanwhile: there it is written as the owner. Elsewhere nobody but root could.
        """
        belongs_to_owner = os.stat(self.directory).st_uid == self.owner.uid
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
