"""What all workers know of clients' addresses: how many connections they have, and who guesses.

The memory is shared and made before the fork. Each worker writes a share of its own and reads all
of them, so that nobody locks anything. An address has a cell in each of two halves, by two halves
of a hash: another address would have to share both to be taken for it.
"""

import mmap
import socket
import struct
from time import monotonic

CELLS = 16384
"""In a half: with as many addresses at a time, one in some thousands meets another in both."""
SHORTEST_DELAY = 2.0
LONGEST_DELAY = 15.0
"""Seconds that a login waits for its refusal: the first one after a first failure, and the most."""
ENOUGH_FAILURES = 16
"""More make no difference."""
FORGET_SECONDS = 60.0
"""After so long without a failure an address begins anew."""
SITE_OCTETS = 6
"""Of an IPv6 address: a site has at the most those that begin alike so far, a /48 (RFC 6177)."""


class Share:
    """A worker's own part of the memory: for each cell a count of connections, and failures.

    ``failed_at`` is in seconds of the monotonic clock, ``guesses`` a mark of what was tried last.
    """

    SIZE = 2 * CELLS * (2 + 2 + 4 + 4)

    def __init__(self, memory: memoryview) -> None:
        cells = 2 * CELLS
        self.memory = memory
        self.connections = memory[: 2 * cells].cast("H")
        self.failures = memory[2 * cells : 4 * cells].cast("H")
        self.failed_at = memory[4 * cells : 8 * cells].cast("I")
        self.guesses = memory[8 * cells : 12 * cells].cast("I")

    def clear_connections(self) -> None:
        """Forget the connections of a worker that is no more."""
        size = self.connections.nbytes
        self.memory[:size] = bytes(size)


class Clients:
    """The shares of all workers, and which of them is ours."""

    def __init__(self, workers: int) -> None:
        memory = memoryview(mmap.mmap(-1, workers * Share.SIZE))
        self.shares = [
            Share(memory[number * Share.SIZE : (number + 1) * Share.SIZE])
            for number in range(workers)
        ]
        self.own = self.shares[0]

    def belong_to(self, number: int) -> None:
        """Write to a worker's share from now on."""
        self.own = self.shares[number]

    def mark(self, *texts: bytes) -> bytes:
        """Return eight octets that tell texts apart and, by Python's secret seed, nothing else."""
        return struct.pack("q", hash(b"\0".join(texts)))

    def cells(self, source: bytes) -> tuple[int, int]:
        """Return the cells of where clients come from."""
        one, two = struct.unpack("II", self.mark(source))
        return one % CELLS, CELLS + two % CELLS

    def connections(self, address: str) -> int:
        """Return how many connections an address has to all workers."""
        return min(
            sum(share.connections[cell] for share in self.shares)
            for cell in self.cells(address.encode())
        )

    def connected(self, address: str, change: int) -> None:
        """Note that an address has a connection more, or one less."""
        for cell in self.cells(address.encode()):
            self.own.connections[cell] += change

    def failed(self, address: str, user: bytes, password: bytes) -> float:
        """Note a login that failed; return for how many seconds its refusal must wait.

        Who repeats what was wrong before, as a mail client with an old password does, is not
        guessing: it waits no longer each time.
        """
        cells = self.cells(guesser(address))
        (guess,) = struct.unpack_from("I", self.mark(user, password))
        repeated = all(any(share.guesses[cell] == guess for share in self.shares) for cell in cells)
        now = int(monotonic())
        if not repeated:
            for cell in cells:
                count = 1 + self.remembered(self.own, cell, now)
                self.own.failures[cell] = min(count, ENOUGH_FAILURES)
                self.own.guesses[cell] = guess
        for cell in cells:
            self.own.failed_at[cell] = now
        count = min(
            sum(self.remembered(share, cell, now) for share in self.shares) for cell in cells
        )
        return min(LONGEST_DELAY, SHORTEST_DELAY * 2.0 ** (min(count, ENOUGH_FAILURES) - 1))

    @staticmethod
    def remembered(share: Share, cell: int, now: int) -> int:
        """Return the failures of a cell that one worker has not forgotten yet."""
        return share.failures[cell] if now - share.failed_at[cell] <= FORGET_SECONDS else 0


def guesser(address: str) -> bytes:
    """Return what all addresses have in common that whoever has this one can guess from."""
    if ":" not in address:
        return address.encode()
    number, _, _ = address.partition("%")
    return socket.inet_pton(socket.AF_INET6, number)[:SITE_OCTETS]
