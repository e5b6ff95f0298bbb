"""The connection limit, exact over all workers without a lock: a pipe with an octet a place."""

import fcntl
import os

from perdition.failure import StartupError

PAGE_SIZE = 4096
"""A page takes octets back only when it is empty: one must be to spare."""
PIPE_SIZE = 65536
"""Octets that a pipe holds unasked."""


class Tokens:
    """As many tokens as connections may be open at once; made before the fork."""

    def __init__(self, limit: int, inherited: tuple[int, int] | None = None) -> None:
        """Make so many, or share those that a predecessor has made; raises StartupError."""
        self.limit = limit
        if inherited:
            self.source, self.sink = inherited
            return
        self.source, self.sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if limit + PAGE_SIZE > PIPE_SIZE:
                fcntl.fcntl(self.sink, fcntl.F_SETPIPE_SZ, limit + PAGE_SIZE)
            self.put_back(limit)
        except OSError as error:
            raise StartupError(
                f"connection_limit {limit}: the system allows no such limit; give a lower one"
            ) from error

    def take(self) -> bool:
        """Take a token; tell whether there was one."""
        try:
            return bool(os.read(self.source, 1))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Let go of the tokens, in a process that is not to have any."""
        os.close(self.source)
        os.close(self.sink)

    def put_back(self, count: int = 1) -> None:
        """Put tokens back."""
        while count:
            count -= os.write(self.sink, bytes(min(count, PIPE_SIZE)))
