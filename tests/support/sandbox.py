"""The systemd unit's system call filter, for the perditions of tests.

A call that the unit does not allow kills the process with SIGSYS, so that no test can overlook it.
"""

import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

try:
    import seccomp
except ImportError:
    seccomp = None

UNIT = Path(__file__).parents[2] / "initscripts" / "systemd" / "perdition@.service"

_ENOSYS = 38
"""The error that systemd returns for system calls it does not know."""
_HIGHEST_FAMILY = 63


def missing() -> str:
    """What is not installed, or ""."""
    if not seccomp:
        return "not installed: libseccomp for python3"
    return "" if shutil.which("systemd-analyze") else "not installed: systemd-analyze"


def enter() -> None:
    """Apply the filters to this process and its children, if they can be made."""
    for rules in _filters():
        rules.load()


@cache
def _filters() -> tuple["seccomp.SyscallFilter", ...]:
    """Every filter must allow a call; the last one allows no further filters."""
    return () if missing() else (_families(), _calls())


def _calls() -> "seccomp.SyscallFilter":
    """SystemCallFilter= of the unit."""
    known = set(_expanded(["@known"]))
    allowed: set[str] = set()
    for line in _directive("SystemCallFilter"):
        if line.startswith("~"):
            allowed -= set(_expanded(line[1:].split()))
        else:
            allowed |= set(_expanded(line.split()))
    rules = seccomp.SyscallFilter(seccomp.ERRNO(_ENOSYS))
    for name in known | allowed:
        if seccomp.resolve_syscall(seccomp.Arch(), name) >= 0:
            rules.add_rule(seccomp.ALLOW if name in allowed else seccomp.KILL_PROCESS, name)
    return rules


def _families() -> "seccomp.SyscallFilter":
    """RestrictAddressFamilies= of the unit."""
    [line] = _directive("RestrictAddressFamilies")
    allowed = {getattr(socket, name) for name in line.split()}
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for family in set(range(_HIGHEST_FAMILY)) - allowed:
        of_family = seccomp.Arg(0, seccomp.EQ, family)
        rules.add_rule(seccomp.KILL_PROCESS, "socket", of_family)
    return rules


def _directive(name: str) -> list[str]:
    """The values of a directive of the unit."""
    lines = UNIT.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def _expanded(names: Iterable[str]) -> Iterator[str]:
    """System calls, with groups replaced by their members."""
    for name in names:
        yield from _expanded(_groups()[name]) if name.startswith("@") else [name]


@cache
def _groups() -> dict[str, list[str]]:
    """systemd's groups of system calls."""
    command = ["systemd-analyze", "syscall-filter"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    groups: dict[str, list[str]] = {}
    for line in shown.splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line, [])
        elif line.strip() and "#" not in line:
            group.append(line.strip())
    return groups
