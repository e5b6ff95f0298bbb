"""Runs perdition with a process that stops itself (SIGSTOP) when it calls a method.

    python3 -I tests/support/stop_points.py POINT bin/perdition.imap4 [option...]

A point is a module, a class and a method, and perhaps the `number` of the only object to stop at.
"""

import os
import runpy
import signal
import sys
from functools import wraps
from importlib import import_module
from typing import Any

MASTER_WAITS_FOR_WORKERS = "perdition.process.master:Master:wait_for_workers"
"""All workers are forked, and the predecessor still has all clients."""
SECOND_WORKER_STARTS = "perdition.process.worker:Worker:heartbeat:2"
"""The master waits for this worker, and other workers may have started."""


def stop_at(point: str) -> None:
    """Have the method stop its process before it does anything."""
    module, name, method, *numbers = point.split(":")
    owner = getattr(import_module(module), name)
    original = getattr(owner, method)

    @wraps(original)
    def stop_first(self: Any, *arguments: Any, **named: Any) -> Any:
        if not numbers or str(self.number) in numbers:
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(self, *arguments, **named)

    setattr(owner, method, stop_first)


if __name__ == "__main__":
    stop_at(sys.argv[1])
    sys.argv = sys.argv[1:]
    runpy.run_module("perdition", run_name="__main__")
