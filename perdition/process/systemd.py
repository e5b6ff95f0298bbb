"""The protocol of a service manager such as systemd: sd_listen_fds(3) and sd_notify(3)."""

import os
import socket
from contextlib import suppress

from setproctitle import getproctitle

from perdition.failure import StartupError
from perdition.options.values import is_number

FIRST_DESCRIPTOR = 3


def service_manager_sockets() -> list[socket.socket]:
    """Return the listening sockets that the service manager has passed to this process.

    Raises StartupError for any other descriptor. The variables are removed from the environment,
    because they are not meant for child processes.
    """
    getproctitle()  # works only if it is first called while the environment is unchanged
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not is_number(count):
        return []
    return [listening_socket(FIRST_DESCRIPTOR + number) for number in range(int(count))]


def listening_socket(descriptor: int) -> socket.socket:
    """Return the listening TCP socket of a descriptor; raises StartupError if it is not one."""
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartupError(f"LISTEN_FDS: descriptor {descriptor}: {error.strerror}") from error
    if not listens or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise StartupError(
            f"LISTEN_FDS: descriptor {descriptor} is not a listening TCP socket; "
            "expected a socket unit with ListenStream=PORT and Accept=no"
        )
    return sock


def notify(*assignments: str) -> None:
    """Send assignments such as READY=1 to the service manager, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        address = "\0" + path[1:] if path.startswith("@") else path
        sock.sendto("\n".join(assignments).encode(), address)
