"""What a worker or the metrics process does first: it closes what is not for it, then serves."""

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from perdition.client_limits import ClientLimits
from perdition.helper.client import HelperClient
from perdition.helper.supervisor import Closable, HelperHandle
from perdition.log import Log
from perdition.net.loop import Loop
from perdition.net.tls_contexts import TLSContexts
from perdition.options.table import Options
from perdition.popmap import PopMap
from perdition.popmap.service import PopMapService
from perdition.process.listening import ListeningSockets
from perdition.process.worker import Worker
from perdition.scoreboard import Scoreboard, WorkerCounters
from perdition.site import Site


class Inheritance(NamedTuple):
    """What a child inherits from the master, as it is at the time of the fork.

    ``only_masters`` is what only the master may hold open.
    """

    name: str
    options: Options
    log: Log
    tls: TLSContexts
    popmap: PopMap
    sockets: ListeningSockets
    helper: HelperHandle
    scoreboard: Scoreboard
    client_limits: ClientLimits
    lifeline: tuple[int, int]
    only_masters: Sequence[Closable]


def run_worker(
    inherited: Inheritance, number: int, options_socket: socket.socket, accepts: bool
) -> NoReturn:
    """Run the worker with that number. Signals stay blocked until it handles them.

    With ``accepts`` False it accepts clients only after SIGUSR1, when a takeover is complete.
    """
    close_masters(inherited, number)
    sockets = inherited.sockets
    if sockets.metrics_socket:
        sockets.metrics_socket.close()
    worker = Worker(
        inherited.name,
        number,
        open_site(inherited, number),
        sockets.listeners,
        sockets.connection_limit,
        inherited.lifeline[0],
        options_socket,
    )
    worker.run(accepts)


def run_metrics(inherited: Inheritance) -> NoReturn:
    """Run the metrics process, which has no client and no helper."""
    from perdition.process import metrics_server

    close_masters(inherited, 0)
    sockets = inherited.sockets
    assert sockets.metrics_socket
    for listener in sockets.listeners:
        listener.close()
    if sockets.connection_limit:
        sockets.connection_limit.close()
    metrics_server.serve(
        inherited.name,
        sockets.metrics_socket,
        inherited.scoreboard,
        inherited.options.service.name,
        inherited.log,
        inherited.lifeline[0],
    )


def close_masters(inherited: Inheritance, number: int) -> None:
    """Close what is the master's, and the helper channels of workers with another number."""
    os.close(inherited.lifeline[1])
    for held in inherited.only_masters:
        held.close()
    inherited.helper.close_channels_except(number)


def open_site(inherited: Inheritance, number: int) -> Site:
    """Return the Site of the worker with that number."""
    loop = Loop()
    options, log = inherited.options, inherited.log
    channel = inherited.helper.channel(number)
    return Site.open(
        loop,
        options,
        log,
        popmap=PopMapService(loop, inherited.popmap, options, log),
        tls=inherited.tls,
        client_limits=inherited.client_limits,
        counters=WorkerCounters(inherited.scoreboard.rows[number - 1]),
        helper=HelperClient(loop, channel) if channel else None,
    )
