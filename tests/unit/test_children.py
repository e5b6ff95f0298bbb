"""The master's children, without a master."""

import os
import signal
import socket
from pathlib import Path
from typing import NoReturn

from perdition.log import File, Log
from perdition.process.children import Children, Slot
from perdition.process.connection_limit import ConnectionLimit
from perdition.scoreboard import Column
from tests.support.wait import until

LIMIT = 3


def test_worker_with_an_impossible_connection_count_is_reaped_and_restarted(tmp_path: Path) -> None:
    def serve(slot: Slot, orders: socket.socket) -> NoReturn:
        children.scoreboard.rows[slot.number - 1][Column.TOKENS] = 10**9
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    log = tmp_path / "log"
    tokens = ConnectionLimit(LIMIT)
    children = Children(1, False, serve, Log("test", File(str(log))), tokens)
    children.start_all()

    def reaped() -> bool:
        children.reap()
        return not children.workers_left()

    until(reaped, lambda: f"the worker is reaped; {log.read_text()}")
    assert "was killed by SIGKILL" in log.read_text()
    assert children.due_times()
    taken = 0
    while tokens.acquire():
        taken += 1
    assert taken <= 2 * LIMIT
    tokens.close()
    if orders := children.workers[0].options_socket:
        orders.close()
