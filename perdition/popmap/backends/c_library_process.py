"""The process that a site's C library runs in.

    python3 -m perdition.popmap.backends.c_library_process LIBRARY [DESCRIPTOR]

Without the descriptor of a socket it only tells whether the library can be used.
"""

import ctypes
import os
import socket
import struct
import sys
from ctypes import POINTER, addressof, byref, c_char_p, c_int, c_size_t, c_void_p
from typing import Any

from perdition.endpoint import ConnectionEnds
from perdition.popmap.backends.c_variables import define
from perdition.popmap.child_process import FAULT, FOUND
from perdition.popmap.lookup_process import serve

FREE = ctypes.CDLL(None).free
FREE.argtypes = [c_void_p]

SOCKADDR_STORAGE = 128
UTSNAME = 512
"""Octets of that structure, or a few more."""
FLOW_SIZE = 4
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Unusable(Exception):
    """The library cannot be loaded, or has not what it must have."""


class Program:
    """What a library may know of the program that it is in: the system, and whose login it is.

    They are what ``system_uname``, ``peername`` and ``sockname`` point to.
    """

    def __init__(self) -> None:
        """Define the variables; raises OSError."""
        self.system = ctypes.create_string_buffer(UTSNAME)
        self.peer = ctypes.create_string_buffer(SOCKADDR_STORAGE)
        self.own = ctypes.create_string_buffer(SOCKADDR_STORAGE)
        system_uname, peername, sockname = define("system_uname", "peername", "sockname")
        system_uname.value = addressof(self.system)
        peername.value = addressof(self.peer)
        sockname.value = addressof(self.own)
        ctypes.CDLL(None).uname(self.system)

    def serve(self, ends: ConnectionEnds) -> None:
        """Let a connection be the one that is served."""
        self.peer.raw = sockaddr(ends.source, ends.source_port)
        self.own.raw = sockaddr(ends.destination, ends.destination_port)


def sockaddr(host: str, port: int) -> bytes:
    """Return an address as C has it; zeros if it is none, as in a pipe."""
    try:
        [(family, _, _, _, address)] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=NUMERIC
        )
    except OSError:
        return bytes(SOCKADDR_STORAGE)
    packed = socket.inet_pton(family, host.partition("%")[0])
    head = struct.pack("=H", family) + struct.pack(">H", port)
    if family == socket.AF_INET6:
        packed = bytes(FLOW_SIZE) + packed + struct.pack("=I", address[-1])  # the scope
    return (head + packed).ljust(SOCKADDR_STORAGE, b"\0")


class Library:
    """A library and its functions."""

    def __init__(self, path: str) -> None:
        """Load the library; raises Unusable."""
        try:
            self.program = Program()
            self.library = ctypes.CDLL(path)
        except OSError as error:
            raise Unusable(str(error)) from error
        self.get = self.function("dbserver_get", POINTER(c_void_p), POINTER(c_size_t))
        self.get2 = self.function("dbserver_get2", *[POINTER(c_void_p)] * 3)
        if not (self.get or self.get2):
            raise Unusable("it has neither dbserver_get nor dbserver_get2")
        self.option = b""

    def function(self, name: str, *results: Any) -> Any:
        """Return a function that finds a key, or None if the library has no such."""
        found = getattr(self.library, name, None)
        if found:
            found.argtypes = [c_char_p, c_char_p, *results]
            found.restype = c_int
        return found

    def start(self, option: bytes) -> tuple[int, bytes]:
        """Start the library, if it wants that."""
        self.option = option
        if hasattr(self.library, "dbserver_init"):
            # It may write into its argument, and keep it.
            self.kept = ctypes.create_string_buffer(option)
            if said := self.library.dbserver_init(self.kept):
                return FAULT, b"dbserver_init returns %d" % said
        return FOUND, b""

    def end(self) -> None:
        """End the library, if it wants that."""
        if hasattr(self.library, "dbserver_fini"):
            self.library.dbserver_fini()

    def lookup(self, key: bytes, ends: ConnectionEnds) -> tuple[int, bytes]:
        """Return the status, and what was found."""
        self.program.serve(ends)
        if self.get:
            value, length = c_void_p(), c_size_t()
            status = self.get(key, self.option, byref(value), byref(length))
            return status, taken(value, length.value) if status == FOUND else b""
        three = c_void_p(), c_void_p(), c_void_p()
        status = self.get2(key, self.option, *map(byref, three))
        return status, b"\0".join(map(taken, three)) if status == FOUND else b""


def taken(pointer: c_void_p, length: int = -1) -> bytes:
    """Return the octets that a library has allocated, and free them; no pointer is none."""
    if not pointer:
        return b""
    octets = ctypes.string_at(pointer, length)
    FREE(pointer)
    return octets.partition(b"\0")[0]  # some libraries count the NUL behind the value, too


def main(path: str, descriptor: str = "") -> int:
    """Run the process; returns its status."""
    try:
        library = Library(path)
    except Unusable as error:
        print(error, file=sys.stderr)
        return os.EX_UNAVAILABLE
    if descriptor:
        serve(library, int(descriptor))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
