"""Limits per client address, over all workers: connections, and the delay after failed logins.

All IPv6 addresses of a client's network count as one, because a client can use any of them.

The memory is created before the fork and shared. Each worker writes its own share and reads all
shares, so there are no locks. An address has one cell in each of two tables, by two hashes; two
addresses are confused only if both cells are the same.
"""

import mmap
import os
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
"""The failures and guesses of an address expire after this time without another failure."""
KEY_SIZE = 32
NETWORK_BYTES = 6
"""Bytes of an IPv6 address that identify a client's network: at most a /48 (RFC 6177)."""
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

    def recent_failures(self, cell: int, now: int) -> int:
        """Return the failures of a cell that have not expired."""
        return self.failures[cell] if now - self.failed_at[cell] <= FORGET_SECONDS else 0

    def forget_expired(self, cell: int, now: int) -> None:
        """Clear a cell whose failures have expired, before a new one makes them recent again."""
        if self.failures[cell] and not self.recent_failures(cell, now):
            self.failures[cell] = 0
            first, end = cell * GUESSES, (cell + 1) * GUESSES
            self.guesses[first:end] = memoryview(bytes(GUESSES * GUESS_SIZE)).cast("H")

    def remembers(self, cell: int, guess: int, now: int) -> bool:
        """Return whether a guess is among the last ones of a cell, and has not expired."""
        first = cell * GUESSES
        guesses = self.guesses[first : first + GUESSES].tolist()
        return guess in guesses and bool(self.recent_failures(cell, now))

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
        self.key = os.urandom(KEY_SIZE)

    def use_share(self, number: int) -> None:
        """Use the share of a worker, counted from 0."""
        self.own = self.shares[number]

    def keyed_hash(self, *texts: bytes) -> bytes:
        """Return a hash of eight bytes.

        The workers share its random key because they were forked, and a client cannot know it: it
        can neither choose colliding addresses nor read passwords. Python's own hash is secret, too,
        unless PYTHONHASHSEED is set; hashlib would cost 0.3 MiB in each process for OpenSSL.
        """
        return struct.pack("q", hash(b"\0".join((self.key, *texts))))

    def cells(self, source: bytes) -> tuple[int, int]:
        """Return the two cells of an address."""
        one, two = struct.unpack("II", self.keyed_hash(source))
        return one % CELLS, CELLS + two % CELLS

    def connections(self, address: str) -> int:
        """Return how many connections the network of an address has, over all workers."""
        return min(
            sum(share.connections[cell] for share in self.shares)
            for cell in self.cells(network_of(address))
        )

    def change_connections(self, address: str, change: int) -> None:
        """Count a connection more (+1) or one less (-1) for the network of an address."""
        for cell in self.cells(network_of(address)):
            self.own.connections[cell] += change

    def record_failure(self, address: str, user: bytes, password: bytes) -> float:
        """Count a failed login; return the delay of the reply in seconds.

        Repeated credentials, which mail clients with an old password send, do not count as new
        guesses and do not increase the delay.
        """
        cells = self.cells(network_of(address))
        halves = struct.unpack_from("HH", self.keyed_hash(user, password))
        guess = list(zip(cells, halves, strict=True))
        now = int(monotonic())
        for cell in cells:
            self.own.forget_expired(cell, now)
        if not all(any(share.remembers(*half, now) for share in self.shares) for half in guess):
            for cell, half in guess:
                self.own.failures[cell] = min(1 + self.own.failures[cell], MAX_FAILURES)
                self.own.remember(cell, half)
        for cell in cells:
            self.own.failed_at[cell] = now
        count = min(
            sum(share.recent_failures(cell, now) for share in self.shares) for cell in cells
        )
        return min(MAX_DELAY, MIN_DELAY * 2.0 ** (min(count, MAX_FAILURES) - 1))


def network_of(address: str) -> bytes:
    """Return what limits apply to: the IPv4 address, or the /48 of an IPv6 address."""
    if ":" not in address:
        return address.encode()
    number, _, _ = address.partition("%")
    return socket.inet_pton(socket.AF_INET6, number)[:NETWORK_BYTES]
