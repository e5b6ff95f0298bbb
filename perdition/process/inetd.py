"""inetd mode: one client, on the socket that a super-server has made our standard input."""

import os
import signal
import socket

from perdition.auth import login_seconds
from perdition.clients import Clients
from perdition.failure import StartupError
from perdition.helper_line import Asker, Line
from perdition.log import Log, fault
from perdition.net.loop import Loop
from perdition.options import Options
from perdition.popmap.kinds import open_map
from perdition.process.encryption import Encryption
from perdition.process.furnish import furnish
from perdition.process.memory import settle
from perdition.process.rights import Owner, harden, renounce
from perdition.process.scoreboard import Scoreboard
from perdition.session import Session
from perdition.tally import Tally
from perdition.username import Ends

STDIN = 0


def run(name: str, options: Options, log: Log) -> int:
    """Serve the client on standard input, and return the exit status; raises StartupError."""
    sock = client()
    tls = Encryption(options)
    popmap = open_map(options)
    popmap.check()
    owner = Owner.wanted(options)
    harden()
    line = None
    if options.authenticate_in:
        from perdition.process import keeper

        line = Line([])
        seconds = login_seconds(options.authenticate_timeout)
        keeper.start(name, [line], os.pipe2(os.O_CLOEXEC), [], seconds)
    owner.become()
    renounce()
    if options.debug:
        log.debug(options.logged())
    loop = Loop()
    loop.on_fault = lambda error: log.error(f"a fault of our own: {fault(error)}")
    asker = Asker(loop, line) if line else None
    tally = Tally(Scoreboard(1).rows[0])
    site = furnish(
        loop,
        options,
        log,
        popmap=popmap,
        tls=tls,
        clients=Clients(workers=1),
        tally=tally,
        helper=asker,
    )._replace(inetd_pid=os.getppid())
    sock.setblocking(False)

    def begin() -> None:
        loop.spawn(Session(site, sock, ends_of(sock), lambda _: loop.stop()).run())

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: loop.call_soon_from_thread(site.end_sessions))
    loop.call_soon_from_thread(begin)
    loop.call_later(0.0, lambda: show_title(name))  # at the next tick: the greeting goes first
    settle()
    loop.run()
    return os.EX_OK


def client() -> socket.socket:
    """Return the client's connection, which is standard input; raises StartupError."""
    try:
        sock = socket.socket(fileno=os.dup(STDIN))
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartupError(
            f"inetd_mode: standard input: {error.strerror}; have a super-server start perdition"
        ) from error
    if listens:
        raise StartupError(
            "inetd_mode: standard input listens, and is no client yet; tell inetd nowait, "
            "xinetd wait = no, systemd Accept=yes"
        )
    return sock


def show_title(name: str) -> None:
    """Tell ps what this process is."""
    from setproctitle import setproctitle

    setproctitle(f"{name}: inetd")


def ends_of(sock: socket.socket) -> Ends:
    """Return both ends of a connection; what has no IP address has an empty one."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return Ends("", 0, "", 0)
    try:
        return Ends.between(sock.getpeername(), sock.getsockname())
    except OSError:
        return Ends("", 0, "", 0)
