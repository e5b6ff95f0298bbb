"""A syslog daemon at /dev/log that parses what it receives."""

import re
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.wait import until

SOCKET = Path("/dev/log")
FACILITIES = {2: "mail", 3: "daemon", 19: "local3"}
PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


class SyslogRecord(NamedTuple):
    """A parsed line."""

    facility: str
    priority: str
    name: str
    pid: int
    text: str


class Syslog:
    """As a context it listens at /dev/log. With `reads` False it never reads."""

    def __init__(self, *, reads: bool = True) -> None:
        self._reads = reads
        self._records: list[SyslogRecord] = []
        self._odd: list[bytes] = []

    @staticmethod
    def taken() -> str | None:
        """Why it cannot listen here, or None."""
        return f"{SOCKET} belongs to somebody" if SOCKET.exists() else None

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(SOCKET))
        SOCKET.chmod(0o666)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        SOCKET.unlink()
        self._socket.close()

    def restart(self) -> None:
        """Close the socket and open a new one, as syslogd does."""
        self.__exit__(None, None, None)
        self.__enter__()

    def records(self) -> list[SyslogRecord]:
        """What has arrived so far."""
        if self._reads:
            with suppress(BlockingIOError):
                while True:
                    self._note(self._socket.recv(1 << 16))
        return self._records

    def wait_for(self, pattern: str) -> SyslogRecord:
        """Wait for a record whose text matches."""
        return until(
            lambda: next((each for each in self.records() if re.search(pattern, each.text)), None),
            lambda: f"{pattern!r} in the system's log\n{self.evidence()}",
        )

    def evidence(self) -> str:
        return "\n".join(map(str, [*self.records(), *self._odd])) or "nothing has arrived"

    def _note(self, raw: bytes) -> None:
        form = rb"<(\d+)>[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d ([^ \[]+)\[(\d+)\]: (.*)"
        if not (found := re.fullmatch(form, raw)):
            self._odd.append(raw)
            return
        facility, priority = divmod(int(found[1]), 8)
        self._records.append(
            SyslogRecord(
                FACILITIES.get(facility, str(facility)),
                PRIORITIES[priority],
                found[2].decode(),
                int(found[3]),
                found[4].decode(),
            )
        )
