"""The way off the terminal."""

import os
import resource
from collections.abc import Iterable
from typing import Any

UMASK = 0o027


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
    python_daemon().DaemonContext(
        detach_process=True,
        files_preserve=[*preserved, sink],
        umask=UMASK,
        signal_map={},
    ).open()
    return sink


def python_daemon() -> Any:
    """Return the library, which is told that no descriptors are allowed beyond those that are open.

    It closes what is open; but its versions before 3 list at once all numbers that are allowed:
    32 MiB of them where systemd starts us.
    """
    count = max(map(int, os.listdir("/proc/self/fd"))) + 1
    truth = resource.getrlimit
    resource.getrlimit = lambda _: (count, count)
    try:
        import daemon
    finally:
        resource.getrlimit = truth
    return daemon


def release_parent(sink: int) -> None:
    """Let the process that was started end: everything runs."""
    os.write(sink, b"\0")
    os.close(sink)
