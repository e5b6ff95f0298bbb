"""The pid file: contains the master's process id while it runs."""

import os
from contextlib import suppress

from lockfile import AlreadyLocked, LockFailed, UnlockError
from lockfile.pidlockfile import PIDLockFile

from perdition.failure import StartupError
from perdition.privileges import Owner

DIRECTORY_MODE = 0o750
FILE_MODE = 0o660
HIGHEST_PID = 0x7FFFFFFF


class PidFile:
    """The pid file of a master; ``held`` is the descriptor of a predecessor's file, or -1."""

    def __init__(self, path: str, owner: Owner) -> None:
        self.path = path
        self.owner = owner
        self.directory = os.path.dirname(path)
        self.lock = PIDLockFile(path)
        self.held = -1

    @property
    def takeover_socket(self) -> str:
        """The path of the socket next to the file, which successors connect to."""
        return f"{self.path}.takeover"

    def prepare(self) -> None:
        """Create the directory, and remove the file of a master that no longer runs.

        Raises StartupError if another master runs, or the file cannot be written.
        """
        try:
            if not os.path.isdir(self.directory):
                os.makedirs(self.directory)
                os.chmod(self.directory, DIRECTORY_MODE)
                self.owner.chown(self.directory)
            if os.path.exists(self.path):
                self.remove_stale()
        except OSError as error:
            raise StartupError(
                f"pid_file {self.path}: {error.strerror}; expected a file that can be written, "
                "or an empty value for none"
            ) from error
        if not os.access(self.directory, os.W_OK):
            raise StartupError(
                f"pid_file {self.path}: directory not writable; change its owner, or set pid_file"
            )

    def remove_stale(self) -> None:
        """Remove the file of a process that no longer runs; raises StartupError otherwise.

        Anything but a regular file is not read: a pipe would block.
        """
        if not os.path.isfile(self.path):
            raise StartupError(f"pid_file {self.path}: not a regular file; remove it")
        try:
            pid = self.lock.read_pid() or 0
        except ValueError:
            pid = 0  # not a number
        if not 0 < pid <= HIGHEST_PID:
            raise StartupError(
                f"pid_file {self.path}: contains no process id; remove it if perdition does not run"
            )
        if process_exists(pid):
            raise StartupError(
                f"pid_file {self.path}: process {pid} is running; stop it if it is perdition, "
                "otherwise remove the file"
            )
        self.lock.break_lock()

    def write(self) -> None:
        """Write the file; raises StartupError."""
        try:
            with self.owner.writing_rights(self.directory):
                self.lock.acquire(timeout=0)
                os.chmod(self.path, FILE_MODE)
                if os.geteuid() == 0:
                    self.owner.chown(self.path)
        except (AlreadyLocked, LockFailed, OSError) as error:
            raise StartupError(f"pid_file {self.path}: not writable: {error}") from error

    def hold(self) -> None:
        """Open the predecessor's file while there are privileges to do so; raises StartupError."""
        try:
            with self.owner.writing_rights(self.directory):
                self.held = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise StartupError(
                f"pid_file {self.path}: {error.strerror}; restart perdition instead"
            ) from error

    def is_held(self) -> bool:
        """Return whether ``hold`` has opened a predecessor's file."""
        return self.held >= 0

    def fileno(self) -> int:
        return self.held

    def close(self) -> None:
        """Close a predecessor's file without changing it."""
        os.close(self.held)
        self.held = -1

    def take_over(self) -> None:
        """Replace the predecessor's process id with our own.

        Raises StartupError if the predecessor has removed the file because it stops.
        """
        number = b"%d\n" % os.getpid()
        try:
            os.pwrite(self.held, number, 0)
            os.ftruncate(self.held, len(number))
            is_removed = not os.fstat(self.held).st_nlink
        except OSError as error:
            raise StartupError(f"pid_file {self.path}: {error.strerror}") from error
        finally:
            self.close()
        if is_removed:
            raise StartupError(
                f"pid_file {self.path}: the running instance has exited in the meantime"
            )

    def remove(self) -> None:
        """Remove the file if possible; the next start removes a stale one."""
        with suppress(OSError, UnlockError):
            self.lock.release()


def process_exists(pid: int) -> bool:
    """Return whether a process exists, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
