"""Limits per client address, over all workers: connections, and the delay after failed logins.

All IPv6 addresses of a network count as one, because a client can use any of them.

The memory is created before the fork and shared. Each worker writes its own share and reads all
shares, so there are no locks. An address has one cell in each of two tables, by two hashes; two
addresses are confused only if both cells are the same.
"""

import mmap
import socket
import struct
from time import monotonic

CELLS = 16384
"""Cells of a table. With that many addresses, one in several thousand shares both of its cells."""
MIN_DELAY = 2.0
MAX_DELAY = 15.0
"""Delay of the reply to a failed login, in seconds: for the first failure, and the maximum."""
MAX_FAILURES = 16
"""Further failures do not increase the delay."""
FORGET_SECONDS = 60.0
"""The failures of an address expire after this time without another one."""
SITE_BYTES = 6
"""Bytes of an IPv6 address that identify a network: no customer gets more than a /48 (RFC 6177)."""
GUESSES = 10
"""Wrong guesses of an address that each worker remembers."""
GUESS_SIZE = 2
"""Bytes of a remembered guess. An address has two cells, which keep different halves of a hash."""


class Share:
    """A worker's part of the memory: connections and failed logins of each cell.

    ``failed_at`` is in seconds of the monotonic clock; ``guesses`` has GUESSES halves of hashes of
    credentials for each cell, the latest first. A share has 896 KiB; the system provides only the
    pages that were written to.
    """

    SIZE = 2 * CELLS * (2 + 2 + 4 + GUESSES * GUESS_SIZE)

    def __init__(self, memory: memoryview) -> None:
        cells = 2 * CELLS
        self.memory = memory
        self.connections = memory[: 2 * cells].cast("H")
        self.failures = memory[2 * cells : 4 * cells].cast("H")
        self.failed_at = memory[4 * cells : 8 * cells].cast("I")
        self.guesses = memory[8 * cells :].cast("H")

    def clear_connections(self) -> None:
        """Clear the connections of a worker that has died."""
        size = self.connections.nbytes
        self.memory[:size] = bytes(size)

    def remembers(self, cell: int, guess: int) -> bool:
        """Return whether a guess is among the last ones of a cell."""
        first = cell * GUESSES
        return guess in self.guesses[first : first + GUESSES].tolist()

    def remember(self, cell: int, guess: int) -> None:
        """Add a guess to those of a cell, in place of the oldest."""
        first, end = cell * GUESSES, (cell + 1) * GUESSES
        self.guesses[first + 1 : end] = self.guesses[first : end - 1]
        self.guesses[first] = guess


class ClientLimits:
    """The shares of all workers; ``own`` is the one that this worker writes."""

    def __init__(self, workers: int) -> None:
        memory = memoryview(mmap.mmap(-1, workers * Share.SIZE))
        self.shares = [
            Share(memory[number * Share.SIZE : (number + 1) * Share.SIZE])
            for number in range(workers)
        ]
        self.own = self.shares[0]

    def use_share(self, number: int) -> None:
        """Use the share of a worker, counted from 0."""
        self.own = self.shares[number]

    def keyed_hash(self, *texts: bytes) -> bytes:
        """Return a hash of eight bytes.

        Its key is Python's random hash seed. Forked workers share it; clients cannot know it, so
        they can neither choose colliding addresses nor guess passwords from shared memory.
        """
        return struct.pack("q", hash(b"\0".join(texts)))

    def cells(self, source: bytes) -> tuple[int, int]:
        """Return the two cells of an address."""
        one, two = struct.unpack("II", self.keyed_hash(source))
        return one % CELLS, CELLS + two % CELLS

    def connections(self, address: str) -> int:
        """Return how many connections the network of an address has, over all workers."""
        return min(
            sum(share.connections[cell] for share in self.shares)
            for cell in self.cells(site_of(address))
        )

    def change_connections(self, address: str, change: int) -> None:
        """Add ``change`` to the number of connections of an address's network."""
        for cell in self.cells(site_of(address)):
            self.own.connections[cell] += change

    def record_failure(self, address: str, user: bytes, password: bytes) -> float:
        """Count a failed login; return the delay of the reply in seconds.

        Repeated credentials, which mail clients with an old password send, do not count as new
        guesses and do not increase the delay.
        """
        cells = self.cells(site_of(address))
        halves = struct.unpack_from("HH", self.keyed_hash(user, password))
        guess = list(zip(cells, halves, strict=True))
        now = int(monotonic())
        if not all(any(share.remembers(*half) for share in self.shares) for half in guess):
            for cell, half in guess:
                count = 1 + self.recent_failures(self.own, cell, now)
                self.own.failures[cell] = min(count, MAX_FAILURES)
                self.own.remember(cell, half)
        for cell in cells:
            self.own.failed_at[cell] = now
        count = min(
            sum(self.recent_failures(share, cell, now) for share in self.shares) for cell in cells
        )
        return min(MAX_DELAY, MIN_DELAY * 2.0 ** (min(count, MAX_FAILURES) - 1))

    @staticmethod
    def recent_failures(share: Share, cell: int, now: int) -> int:
        """Return the failures in a cell of one share that have not expired."""
        return share.failures[cell] if now - share.failed_at[cell] <= FORGET_SECONDS else 0


def site_of(address: str) -> bytes:
    """Return a client's network: the IPv4 address, or the /48 prefix of an IPv6 address."""
    if ":" not in address:
        return address.encode()
    number, _, _ = address.partition("%")
    return socket.inet_pton(socket.AF_INET6, number)[:SITE_BYTES]
