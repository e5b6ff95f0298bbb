"""The system calls that perdition's systemd unit allows, for the perditions that tests start.

What the unit would refuse ends the process here, by SIGSYS: no test can overlook that.
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
"""What systemd has the calls fail with that it does not know."""
_HIGHEST_FAMILY = 63


def missing() -> str:
    """What is not installed that it takes, or ""."""
    if not seccomp:
        return "not installed: libseccomp for python3"
    return "" if shutil.which("systemd-analyze") else "not installed: systemd-analyze"


def enter() -> None:
    """Have this process, and all that it starts, make no other call; nothing without the means."""
    for rules in _filters():
        rules.load()


@cache
def _filters() -> tuple["seccomp.SyscallFilter", ...]:
    """The filters, each of which a call must pass; the last one allows no further filters."""
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
    """What the unit says of something, a line each."""
    lines = UNIT.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def _expanded(names: Iterable[str]) -> Iterator[str]:
    """Calls, with those of a group in the group's place."""
    for name in names:
        yield from _expanded(_groups()[name]) if name.startswith("@") else [name]


@cache
def _groups() -> dict[str, list[str]]:
    """What systemd has groups for."""
    command = ["systemd-analyze", "syscall-filter"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    groups: dict[str, list[str]] = {}
    for line in shown.splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line, [])
        elif line.strip() and "#" not in line:
            group.append(line.strip())
    return groups
