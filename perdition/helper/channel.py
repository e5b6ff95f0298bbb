"""The protocol between the helper and the processes that use it.

A request has an id, a type and a body; its reply has the same id, a status and a body.

    FILE   the number of a file            READY and a copy of it, or FAILED and the reason
    LOGIN  user, password, client address  READY, or FAILED and PAM's error number
    CANCEL the id of a LOGIN whose reply is no longer wanted; it has no reply of its own
    RESET  a new process uses the channel: requests of its predecessor are cancelled; no reply

Ids never repeat on a channel, although a worker that has died leaves it to the next one: each
process begins at a random number. A reply with another id than expected is dropped.

The copy is a descriptor of a file in memory: a system's file of authorities is larger than the
largest message.
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
"""Maximum size of a message in bytes; a user name or password is smaller."""

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
            message = receive_message(self.client_end)
            if not message:
                raise ConnectionResetError("the helper has exited")
            answered, status = HEAD.unpack_from(message)
            if answered == identifier:
                return status, message[HEAD.size :]


def receive_message(client_end: socket.socket, flags: int = 0) -> bytes:
    """Return a reply, with the content of the file that is attached to it; raises OSError."""
    flags |= socket.MSG_CMSG_CLOEXEC
    message, descriptors, _, _ = socket.recv_fds(client_end, MESSAGE_SIZE, 1, flags)
    for descriptor in descriptors:
        with open(descriptor, "rb") as copy:
            message += copy.read()
    return message


def send_file(helper_end: socket.socket, identifier: int, content: bytes) -> None:
    """Reply with a file; raises OSError if the client no longer reads."""
    with open(os.memfd_create("perdition"), "wb+") as copy:
        copy.write(content)
        copy.seek(0)
        head = HEAD.pack(identifier, Status.READY)
        socket.send_fds(helper_end, [head], [copy.fileno()], socket.MSG_DONTWAIT)


def file_content(status: int, body: bytes) -> bytes:
    """Return the content in a reply to FILE; raises StartupError if the helper could not read."""
    if status != Status.READY:
        raise StartupError(body.decode(errors="replace"))
    return body
