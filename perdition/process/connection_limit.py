"""The connection limit, exact over all workers without a lock.

A pipe holds one byte, a token, for each connection that may still be opened.
"""

import fcntl
import os

from perdition.failure import StartupError

PAGE_SIZE = 4096
"""The kernel reuses a page of a pipe only when the page is empty, so one page must be spare."""
DEFAULT_PIPE_SIZE = 65536
"""Default capacity of a pipe, in bytes."""


class ConnectionLimit:
    """The maximum number of simultaneous connections; created before the fork."""

    def __init__(self, limit: int, inherited: tuple[int, int] | None = None) -> None:
        """Create ``limit`` tokens, or use the ``inherited`` pipe; raises StartupError."""
        self.limit = limit
        if inherited:
            self.source, self.sink = inherited
            return
        self.source, self.sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if limit + PAGE_SIZE > DEFAULT_PIPE_SIZE:
                fcntl.fcntl(self.sink, fcntl.F_SETPIPE_SZ, limit + PAGE_SIZE)
            self.release(limit)
        except OSError as error:
            raise StartupError(
                f"connection_limit {limit}: the system allows no pipe of that size; lower the limit"
            ) from error

    def acquire(self) -> bool:
        """Take a token; return False if the limit is reached."""
        try:
            return bool(os.read(self.source, 1))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self.source)
        os.close(self.sink)

    def release(self, count: int = 1) -> None:
        """Return tokens; raises BlockingIOError if the pipe is full."""
        while count:
            count -= os.write(self.sink, bytes(min(count, DEFAULT_PIPE_SIZE)))
