"""The protocol between the helper and the processes that use it.

A request has an id, a type and a body; its reply has the same id, a status and a body.

    FILE   the number of a file            READY and the content, or FAILED and the reason
    LOGIN  user, password, client address  READY, or FAILED and PAM's error number
    CANCEL the id of a LOGIN whose reply is no longer wanted; it has no reply of its own
    RESET  a new process uses the channel: requests of its predecessor are cancelled; no reply

Ids never repeat on a channel, even if a new worker uses the channel of a dead one: each process
begins at a random number. A reply with an unexpected id is dropped.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator
from enum import IntEnum

from perdition.failure import StartupError

HEAD = struct.Struct("!QB")
SIZE = struct.Struct("!I")

MESSAGE_SIZE = 131072
"""Maximum size of a message in bytes: enough for a certificate with its chain and authorities."""

HELPER_RESTARTED = 0
"""The id of the first message of a new helper: replies to earlier requests will not come."""

FILE_SECONDS = 5.0
"""Time limit for a reply with a file."""


class Request(IntEnum):
    """Types of requests."""

    FILE = 0
    LOGIN = 1
    CANCEL = 2
    RESET = 3


class Status(IntEnum):
    """Results of requests."""

    READY = 0
    FAILED = 1


def pack_fields(*fields: bytes) -> bytes:
    """Return fields joined, each preceded by its size."""
    return b"".join(SIZE.pack(len(field)) + field for field in fields)


def unpack_fields(body: bytes) -> Iterator[bytes]:
    """Yield the fields that ``pack_fields`` joined."""
    while body:
        (size,) = SIZE.unpack_from(body)
        end = SIZE.size + size
        yield body[SIZE.size : end]
        body = body[end:]


def first_id() -> int:
    """Return the id of a process's first request."""
    return 1 + int.from_bytes(os.urandom(7))


class HelperChannel:
    """Both ends of a connection to the helper, created before the fork.

    ``files`` are the files that may be asked for, by their index.
    """

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.next_id = first_id()
        self.client_end, self.helper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def read_file(self, path: str) -> bytes:
        """Return the content of a file; raises StartupError. Blocks for up to FILE_SECONDS."""
        identifier, self.next_id = self.next_id, self.next_id + 1
        body = SIZE.pack(self.files.index(path))
        try:
            self.client_end.send(HEAD.pack(identifier, Request.FILE) + body)
            status, content = self.receive(identifier)
        except OSError as error:
            raise StartupError(f"{path}: the helper does not reply ({error})") from error
        return file_content(status, content)

    def receive(self, identifier: int) -> tuple[int, bytes]:
        """Wait for the reply to a request; return its status and body. Raises OSError."""
        deadline = time.monotonic() + FILE_SECONDS
        while True:
            self.client_end.settimeout(max(0.001, deadline - time.monotonic()))
            message = self.client_end.recv(MESSAGE_SIZE)
            if not message:
                raise ConnectionResetError("the helper has exited")
            found, status = HEAD.unpack_from(message)
            if found == identifier:
                return status, message[HEAD.size :]


def file_content(status: int, body: bytes) -> bytes:
    """Return the content in a reply to FILE; raises StartupError if the helper could not read."""
    if status != Status.READY:
        raise StartupError(body.decode(errors="replace"))
    return body
