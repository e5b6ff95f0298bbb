"""The small mail server of `mailserver` as a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.support.folders import ROOT
from tests.support.wait import DEADLINE


class RealServer:
    """As a context it serves on *address*; `ports` has pop3, imap4 and managesieve."""

    def __init__(
        self,
        name: str,
        users: Mapping[str, str],
        address: str = "127.0.0.1",
        ports: Sequence[int] = (0, 0, 0),
    ) -> None:
        self.name = name
        self.address = address
        self._command = [
            *(sys.executable, "-m", "tests.support.mailserver", "--name", name),
            *("--address", address, "--ports", *map(str, ports)),
            *(f"{user}:{password}" for user, password in users.items()),
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ports = self._process.stdout.readline()
        assert ports, f"{self._command} ended with {self._process.wait(DEADLINE)}"
        self.ports: dict[str, int] = json.loads(ports)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        with self._process:  # Closes its pipes and waits for it.
            pass

    def server(self, protocol: str) -> str:
        """The address of a protocol, as in a popmap."""
        return f"{self.address}:{self.ports[protocol]}"
