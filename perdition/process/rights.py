"""What a process may do: as whom it runs, what it gives up, and what it may never leave behind."""

import ctypes
import grp
import os
import pwd
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from perdition.failure import StartupError
from perdition.options import OPTIONS, Options

HIGHEST_ID = 0xFFFFFFFE
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
            os.setgid(self.gid)
            os.setuid(self.uid)

    def give(self, path: str) -> None:
        """Make a file or directory this owner's: itself, not what a link in its place leads to."""
        if os.getuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Act as this owner for a while, so that nothing is done that this owner could not do."""
        if os.getuid() != 0:
            yield
            return
        root, groups = os.getegid(), os.getgroups()
        os.setgroups([])
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(root)
            os.setgroups(groups)


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


def bind_masked(sock: socket.socket, path: str, mask: int) -> None:
    """Bind a Unix socket, whose file never has more rights than a umask leaves; raises OSError."""
    before = os.umask(mask)
    try:
        sock.bind(path)
    finally:
        os.umask(before)


def die_with_parent() -> None:
    """Have the system end this process when the one that forked it has died, however it died."""
    control(PR_SET_PDEATHSIG, signal.SIGKILL)


def renounce() -> None:
    """Give up, for good, what no worker needs: rights by running other programs, and being looked
    into by others of the same user. Where the system has no such call, nothing is lost.
    """
    control(PR_SET_NO_NEW_PRIVS, 1)
    hide()


def hide() -> None:
    """Let nobody of the same user look into this process, and no core of it go to a program.

    The limit that ``harden`` sets is for cores in files alone: see core(5).
    """
    control(PR_SET_DUMPABLE, 0)


def control(what: int, value: int) -> None:
    """Change something about this process, where the system has the call for that."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(what, value, 0, 0, 0)


def harden() -> None:
    """Leave no core with passwords in it, and use all the descriptors that the system allows."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
