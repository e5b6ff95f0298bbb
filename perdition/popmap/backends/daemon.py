"""A popmap in a daemon on this machine, which is queried with datagrams over a Unix socket.

A datagram consists of a header of big-endian numbers, and a body of strings, each after its length.
"""

import re
import socket
import struct
import time
from collections.abc import Hashable, Iterator
from ipaddress import IPv4Address
from os import fsdecode, fsencode
from typing import ClassVar

from perdition.endpoint import Endpoint
from perdition.failure import MapUnavailable, StartupError
from perdition.files import absolute_path
from perdition.options.table import Options
from perdition.popmap import Destination, PopMap, Query, one_line

HEADER = struct.Struct(">LHHHHLLHH")
"""Magic number, version, flags, length, kind of checksum, addresses, ports."""
LENGTH = struct.Struct(">H")

MAGIC = 0x07070707
VERSION = 1
REQUEST = 1
RESPONSE = 2
REQUEST_WITH_ADDRESSES = 3
"""Flag of a request with the addresses as text in its body: they do not fit the header."""
NO_CHECKSUM = 0

MAX_DATAGRAM = 65_535
MAX_PATH = 107
"""Bytes in the path of a Unix socket."""
NUMBER = re.compile("[0-9]{0,9}")
DEFAULT_SOCKET = "/var/run/perdition.db"
DEFAULT_SECONDS = 1
DEFAULT_RETRIES = 5


def open_map(options: Options) -> "DaemonMap":
    """Open the map; raises StartupError.

    ``map_library_opt`` is ``[socket[:timeout_seconds[:max_retry]]]``.
    """
    path, *numbers = options.map_library_opt.split(":")
    path = absolute_path(path or DEFAULT_SOCKET)
    if (
        len(fsencode(path)) > MAX_PATH
        or len(numbers) > 2
        or not all(NUMBER.fullmatch(number) for number in numbers)
    ):
        raise StartupError(
            f"map_library_opt {options.map_library_opt}: expected socket:timeout_seconds:max_retry"
        )
    seconds, retries = [*numbers, "", ""][:2]
    return DaemonMap(
        path,
        int(seconds or DEFAULT_SECONDS),
        int(retries or DEFAULT_RETRIES),
        options,
    )


class DaemonMap(PopMap):
    """A daemon; a request without an answer is sent again, up to ``retries`` times."""

    blocks: ClassVar[bool] = True

    def __init__(self, path: str, seconds: int, retries: int, options: Options) -> None:
        self.path = path
        self.seconds: float = seconds
        self.retries = retries
        self.delimiter = options.domain_delimiter
        self.time_limit = options.map_timeout

    def lookup(self, query: Query) -> Destination | None:
        datagram = request(query, self.delimiter)
        end = time.monotonic() + self.time_limit
        # Each lookup has its own socket with a name from the system, so a late answer cannot reach
        # another lookup.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            try:
                own.bind("")
                own.connect(self.path)
                for _ in range(1 + self.retries):
                    deadline = min(time.monotonic() + self.seconds, end)
                    own.settimeout(max(0.001, deadline - time.monotonic()))
                    own.send(datagram)
                    for answer in answers(own, deadline):
                        return destination(*answer)
            except OSError as error:
                raise MapUnavailable(f"popmap {self.path}: {one_line(error)}") from error
        raise MapUnavailable(f"popmap {self.path}: no answer in time")

    def cache_key(self, query: Query) -> Hashable:
        return query.key, query.ends

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


def request(query: Query, delimiter: str) -> bytes:
    """Return the request for a key."""
    ends = query.ends
    ports = (ends.source_port, ends.destination_port)
    try:
        addresses = (int(IPv4Address(ends.source)), int(IPv4Address(ends.destination)))
    except ValueError:
        body = strings(query.key, delimiter, *map(str, ends))
        return header(REQUEST_WITH_ADDRESSES, body, (0, 0), ports) + body
    body = strings(query.key, delimiter)
    return header(REQUEST, body, addresses, ports) + body


def header(flags: int, body: bytes, addresses: tuple[int, int], ports: tuple[int, int]) -> bytes:
    """Return the header of a body."""
    length = HEADER.size + len(body)
    return HEADER.pack(MAGIC, VERSION, flags, length, NO_CHECKSUM, *addresses, *ports)


def strings(*values: str) -> bytes:
    """Return strings, each after its length."""
    encoded = map(fsencode, values)
    return b"".join(LENGTH.pack(len(value)) + value for value in encoded)


def answers(own: socket.socket, deadline: float) -> Iterator[list[str]]:
    """Yield the strings of each valid answer until the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        own.settimeout(left)
        try:
            datagram = own.recv(MAX_DATAGRAM)
        except TimeoutError:
            return
        if (strings := response(datagram)) is not None:
            yield strings


def response(datagram: bytes) -> list[str] | None:
    """Return an answer's user, server and port; None if the datagram is not one."""
    if len(datagram) < HEADER.size:
        return None
    magic, version, flags, length, *_ = HEADER.unpack_from(datagram)
    if (magic, version, flags, length) != (MAGIC, VERSION, RESPONSE, len(datagram)):
        return None
    strings, offset = [], HEADER.size
    while offset + LENGTH.size <= length:
        begin = offset + LENGTH.size
        offset = begin + LENGTH.unpack_from(datagram, offset)[0]
        strings.append(fsdecode(datagram[begin:offset]))
    return strings if len(strings) == 3 and offset == length else None


def destination(user: str, server: str, port: str) -> Destination | None:
    """Return an answer's destination; None if it has no server."""
    return Destination(Endpoint(server, port), user) if server else None
