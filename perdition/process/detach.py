"""Starts a daemon; the command exits when it serves."""

import os
import resource
from collections.abc import Iterable
from typing import Any

UMASK = 0o027


def detach(preserved: Iterable[int]) -> int:
    """Continue in a new process without a terminal; return the argument for ``release_parent``.

    The parent process exits with status 0 when it is released, or with 1 if the new process has
    died. All descriptors are closed except those in ``preserved``.
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
    """Import python-daemon with RLIMIT_NOFILE reported as the number of open descriptors.

    Versions before 3 create a list of all allowed descriptors when they are imported: 32 MiB under
    systemd's limit.
    """
    count = max(map(int, os.listdir("/proc/self/fd"))) + 1
    getrlimit = resource.getrlimit
    resource.getrlimit = lambda _: (count, count)
    try:
        import daemon
    finally:
        resource.getrlimit = getrlimit
    return daemon


def release_parent(sink: int) -> None:
    """Have the parent process exit with status 0, because startup is complete."""
    os.write(sink, b"\0")
    os.close(sink)
