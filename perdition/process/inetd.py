"""inetd mode: serves one client, whose connection is standard input."""

import gc
import os
import signal
import socket

from perdition.client_limits import ClientLimits
from perdition.endpoint import ConnectionEnds
from perdition.failure import StartupError
from perdition.files import STDIN
from perdition.helper.channel import HelperChannel
from perdition.helper.client import HelperClient
from perdition.local_authentication import pam_seconds
from perdition.log import Log
from perdition.net.loop import Loop
from perdition.net.tls_contexts import TLSContexts
from perdition.options.table import Options
from perdition.popmap.kinds import open_map
from perdition.popmap.service import PopMapService
from perdition.privileges import Owner, forbid_dumps, forbid_new_privileges, set_resource_limits
from perdition.scoreboard import Scoreboard, WorkerCounters
from perdition.session import Session
from perdition.site import Site


def run(name: str, options: Options, log: Log) -> int:
    """Serve the client on standard input, and return the exit status; raises StartupError."""
    sock = client_socket()
    tls = TLSContexts.load(options)
    popmap = open_map(options)
    popmap.check()
    owner = Owner.from_options(options)
    set_resource_limits()
    channel = start_helper(name, options) if options.authenticate_in else None
    owner.drop_privileges()
    forbid_new_privileges()
    forbid_dumps()
    if options.debug:
        log.debug(options.logged())
    loop = Loop()
    loop.on_error = log.internal_error
    site = Site.open(
        loop,
        options,
        log,
        popmap=PopMapService(loop, popmap, options, log),
        tls=tls,
        client_limits=ClientLimits(workers=1),
        counters=WorkerCounters(Scoreboard(1).rows[0]),
        helper=HelperClient(loop, channel) if channel else None,
        inetd_pid=os.getppid(),
    )
    sock.setblocking(False)

    def start_session() -> None:
        loop.spawn(Session(site, sock, ends_of(sock), lambda _: loop.stop()).run())

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: loop.call_soon_from_thread(site.close_sessions))
    loop.call_soon_from_thread(start_session)
    loop.call_later(0.0, lambda: set_title(name))  # in the next tick, after the greeting
    gc.freeze()  # what remains from startup is never garbage
    gc.enable()
    loop.run()
    return os.EX_OK


def client_socket() -> socket.socket:
    """Return the client's connection, which is standard input; raises StartupError."""
    try:
        sock = socket.socket(fileno=os.dup(STDIN))
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartupError(
            f"inetd_mode: standard input: {error.strerror}; "
            "expected a connection, from inetd, xinetd or systemd"
        ) from error
    if listens:
        raise StartupError(
            "inetd_mode: standard input is a listening socket, expected a connection; configure "
            "nowait in inetd, wait = no in xinetd, Accept=yes in systemd"
        )
    return sock


def start_helper(name: str, options: Options) -> HelperChannel:
    """Fork the helper, which exits when this process does, because the pipe is then closed."""
    from perdition.helper import supervisor

    channel = HelperChannel([])
    lifeline = os.pipe2(os.O_CLOEXEC)
    supervisor.fork_supervisor(name, [channel], lifeline, [], pam_seconds(options))
    return channel


def set_title(name: str) -> None:
    """Set the process title, after the greeting because the import takes long."""
    from setproctitle import setproctitle

    setproctitle(f"{name}: inetd")


def ends_of(sock: socket.socket) -> ConnectionEnds:
    """Return both ends of a connection; without IP addresses they are empty."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return ConnectionEnds("", 0, "", 0)
    try:
        return ConnectionEnds.between(sock.getpeername(), sock.getsockname())
    except OSError:
        return ConnectionEnds("", 0, "", 0)
