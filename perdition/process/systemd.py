"""What a service manager such as systemd and its service say to each other.

Sockets that it has opened come by sd_listen_fds(3); what there is to tell goes by sd_notify(3).
"""

import os
import socket
from contextlib import suppress

from setproctitle import getproctitle

from perdition.failure import StartupError

FIRST_DESCRIPTOR = 3


def passed_sockets() -> list[socket.socket]:
    """Return the listening sockets that the service manager has passed to this process.

    Raises StartupError for anything else that it has passed. Nobody is told of them again: what
    the environment says is for this process alone.
    """
    getproctitle()  # titles go to where the environment was, which is found while it is whole
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [checked(FIRST_DESCRIPTOR + number) for number in range(int(count))]


def checked(descriptor: int) -> socket.socket:
    """Return a descriptor as the listening socket that it must be; raises StartupError."""
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartupError(f"LISTEN_FDS: descriptor {descriptor}: {error.strerror}") from error
    if not listens or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise StartupError(
            f"LISTEN_FDS: descriptor {descriptor} does not listen for TCP connections; "
            "give the socket unit ListenStream= with a port, and Accept=no"
        )
    return sock


def notify(*assignments: str) -> None:
    """Tell the service manager something, if there is one that wants to hear it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        address = "\0" + path[1:] if path.startswith("@") else path
        sock.sendto("\n".join(assignments).encode(), address)
