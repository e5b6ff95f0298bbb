"""Privileges of a process: its user and group, resource limits, and protection from others."""

import ctypes
import grp
import os
import pwd
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from perdition.failure import StartupError
from perdition.options.table import OPTIONS, Options
from perdition.options.values import is_number

MAX_ID = 0xFFFFFFFE
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38


class Owner(NamedTuple):
    """The user and group that processes run as and that files belong to."""

    uid: int
    gid: int

    @classmethod
    def from_options(cls, options: Options) -> "Owner":
        """Return the user and group of ``username`` and ``group``; raises StartupError.

        Without root the process keeps its own user and group; it is an error if the options name
        others.
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
                raise StartupError(f"{name} {value}: only root can change it; remove the option")
        return mine

    def drop_privileges(self) -> None:
        """Run as this user and group for good, without supplementary groups."""
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)

    def chown(self, path: str) -> None:
        """Change the owner of a file or directory, or of a symbolic link itself."""
        if os.getuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    @contextmanager
    def impersonated(self) -> Iterator[None]:
        """Run a ``with`` block with the effective rights of this user and group."""
        if os.getuid() != 0:
            yield
            return
        own_gid, own_groups = os.getegid(), os.getgroups()
        os.setgroups([])
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(own_gid)
            os.setgroups(own_groups)

    def writing_rights(self, directory: str) -> AbstractContextManager[None]:
        """Return the context in which root creates and chowns a file; raises OSError.

        In a directory of this user, its processes could replace the file by a link, so it is
        written with the user's rights. In other directories only root could do that.
        """
        belongs_to_us = os.stat(directory).st_uid == self.uid
        return self.impersonated() if belongs_to_us else nullcontext()


def user_id(name: str) -> int:
    """Return a user id; raises StartupError."""
    if name.isdecimal():
        return checked_id("username", name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise StartupError(
            f"username {name}: no such user; create it, or set another one"
        ) from None


def group_id(name: str) -> int:
    """Return a group id; raises StartupError."""
    if name.isdecimal():
        return checked_id("group", name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartupError(f"group {name}: no such group; create it, or set another one") from None


def checked_id(option: str, number: str) -> int:
    """Return a numeric user or group id; raises StartupError."""
    if not is_number(number) or int(number) > MAX_ID:
        raise StartupError(f"{option} {number}: expected a name or an id up to {MAX_ID}")
    return int(number)


def bind_with_umask(sock: socket.socket, path: str, mask: int) -> None:
    """Bind a Unix socket under a umask, so that its mode is never wider; raises OSError."""
    before = os.umask(mask)
    try:
        sock.bind(path)
    finally:
        os.umask(before)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def forbid_new_privileges() -> None:
    """Gain no privileges by executing set-user-id programs, from now on and in all children."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def forbid_dumps() -> None:
    """Forbid ptrace by other processes of the same user, and cores that are piped to a program.

    RLIMIT_CORE, which ``set_resource_limits`` sets, applies to core files only: see core(5).
    """
    prctl(PR_SET_DUMPABLE, 0)


def prctl(what: int, value: int) -> None:
    """Call prctl(2); raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(what, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {what}: {os.strerror(number)}")


def set_resource_limits() -> None:
    """Forbid core files, which would contain passwords; allow as many descriptors as possible."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
