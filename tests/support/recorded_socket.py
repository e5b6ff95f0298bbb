"""A socket that records its traffic, to be shown afterwards."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.support.wait import DEADLINE

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class RecordedSocket(socket.socket):
    """A client's socket, connected to *address*, for any client library."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(fileno=socket.create_connection(address).detach())
        self.settimeout(DEADLINE)
        self.client_address = "{}:{}".format(*self.getsockname())
        self._said: list[tuple[str, bytearray]] = []

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        super().sendall(data, flags)
        self._note("C", bytes(data))

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        count = super().recv_into(buffer, nbytes, flags)
        self._note("S", bytes(memoryview(buffer)[:count]))
        return count

    def lines(self) -> list[str]:
        """All lines, marked C or S for client or server."""
        return [f"{who}: {line}" for who, said in self._said for line in said.decode().splitlines()]

    def _note(self, who: str, data: bytes) -> None:
        """Join what the same side sends in several pieces."""
        if self._said and self._said[-1][0] == who:
            self._said[-1][1].extend(data)
        else:
            self._said.append((who, bytearray(data)))
