"""Super-servers that start a program for each client: openbsd-inetd, xinetd, and a test."""

import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.client_connection import RawConnection
from tests.support.folders import ROOT
from tests.support.processes import free_ports, listening
from tests.support.wait import DEADLINE, until

TCPD = "/usr/sbin/tcpd"
_UNPACKED = ROOT / ".venv" / "xinetd" / "usr" / "sbin" / "xinetd"
"""Where `packages` unpacks xinetd: Debian's conflicts with openbsd-inetd."""


class SuperServer:
    """As a context it listens, in the foreground, and runs a program for each client as root.

    With `wrapped` it runs tcpd first.
    """

    def __init__(
        self,
        folder: Path,
        program: Path,
        arguments: Sequence[str | Path],
        *,
        wrapped: bool = False,
        address: str = "127.0.0.1",
    ) -> None:
        [self.port] = free_ports(1, "127.0.0.1")
        self.address = (address, self.port)
        self._folder = folder
        self._output = folder / "superserver.out"
        self._program = str(program)
        self._arguments = list(map(str, arguments))
        self._wrapped = wrapped

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here, or None."""
        return None if cls.binary() else f"{cls.__name__} is not installed"

    @classmethod
    def binary(cls) -> str | None:
        raise NotImplementedError

    def command(self) -> list[str]:
        """The command that starts it; writes its configuration."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            until(self._ready, lambda: f"it listens\n{self.evidence()}")
            assert self._process.poll() is None, self.evidence()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(DEADLINE)
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def connect(self) -> RawConnection:
        """A client, for which the program is started."""
        return RawConnection.to(self.address)

    def evidence(self) -> str:
        return f"{self._process.args!r}: {self._process.poll()}\n{self._output.read_text()}"

    def _ready(self) -> bool:
        return listening(self.port) or self._process.poll() is not None


class OpenBsdInetd(SuperServer):
    @classmethod
    def binary(cls) -> str | None:
        return shutil.which("inetd", path="/usr/sbin")

    def command(self) -> list[str]:
        server = TCPD if self._wrapped else self._program
        host = "[::1]" if ":" in self.address[0] else self.address[0]
        family = "tcp6" if ":" in self.address[0] else "tcp"
        configuration = self._folder / "inetd.conf"
        words = [
            *(f"{host}:{self.port}", "stream", family, "nowait.1000", "root"),
            *(server, self._program, *self._arguments),
        ]
        configuration.write_text(" ".join(words) + "\n")
        return [str(self.binary()), "-i", str(configuration)]


class Xinetd(SuperServer):
    """xinetd, which logs the programs' exit status, too."""

    @classmethod
    def binary(cls) -> str | None:
        return shutil.which("xinetd", path="/usr/sbin") or (
            str(_UNPACKED) if _UNPACKED.exists() else None
        )

    def command(self) -> list[str]:
        configuration, self._log = self._folder / "xinetd.conf", self._folder / "xinetd.log"
        words = self._arguments
        flags = "IPv6" if ":" in self.address[0] else "IPv4"
        if self._wrapped:
            words = [self._program, *words]
            flags += " NAMEINARGS"
        configuration.write_text(
            f"""
defaults
{{
    log_type = FILE {self._log}
    log_on_success = PID EXIT
    log_on_failure = HOST
    cps = 1000 1
    instances = UNLIMITED
}}
service mail
{{
    type = UNLISTED
    socket_type = stream
    protocol = tcp
    wait = no
    user = root
    bind = {self.address[0]}
    port = {self.port}
    flags = {flags}
    server = {TCPD if self._wrapped else self._program}
    server_args = {" ".join(words)}
}}
"""
        )
        return [
            *(str(self.binary()), "-dontfork", "-f", str(configuration)),
            *("-pidfile", str(self._folder / "xinetd.pid")),
        ]

    def exits(self) -> list[str]:
        """The log lines of programs that have exited."""
        text = self._log.read_text() if self._log.exists() else ""
        return [line for line in text.splitlines() if "EXIT: " in line]

    def evidence(self) -> str:
        log = self._log.read_text() if self._log.exists() else ""
        return f"{super().evidence()}\n{log}"


class ProgramOnSocket:
    """A program with one client as standard input, output and error."""

    def __init__(self, program: Path | str, *arguments: str | Path) -> None:
        self._command = [str(program), *map(str, arguments)]

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname(), DEADLINE)
            theirs, _ = listener.accept()
        self.client = RawConnection(ours)
        with theirs:
            end = theirs.fileno()
            self.process = subprocess.Popen(
                self._command, stdin=end, stdout=end, stderr=end, start_new_session=True
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DEADLINE)
        self.process.kill()
        self.process.wait()

    def status(self) -> int:
        """Wait until it exits; returns its status."""
        return self.process.wait(DEADLINE)
