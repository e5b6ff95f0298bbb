"""The lookup process of a C library.

    python3 -m perdition.popmap.backends.c_library.process LIBRARY [DESCRIPTOR]

Without the descriptor of a socket, it only checks whether the library is usable.
"""

import ctypes
import os
import socket
import struct
import sys
from ctypes import POINTER, addressof, byref, c_char_p, c_int, c_size_t, c_void_p
from typing import Any

from perdition.endpoint import ConnectionEnds
from perdition.popmap.backends.c_library.variables import define
from perdition.popmap.lookup_process import serve
from perdition.popmap.process_map import FAULT, FOUND

FREE = ctypes.CDLL(None).free
FREE.argtypes = [c_void_p]

SOCKADDR_STORAGE = 128
UTSNAME = 512
"""At least the size of that structure in bytes."""
FLOW_SIZE = 4
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Unusable(Exception):
    """The library cannot be loaded or lacks a required function."""


class Program:
    """The program's variables that a library may use.

    ``system_uname`` points to the result of uname(2), ``peername`` and ``sockname`` to the client's
    address and our own.
    """

    def __init__(self) -> None:
        """Define the variables; raises OSError."""
        self.system = ctypes.create_string_buffer(UTSNAME)
        self.peer = ctypes.create_string_buffer(SOCKADDR_STORAGE)
        self.local = ctypes.create_string_buffer(SOCKADDR_STORAGE)
        system_uname, peername, sockname = define("system_uname", "peername", "sockname")
        system_uname.value = addressof(self.system)
        peername.value = addressof(self.peer)
        sockname.value = addressof(self.local)
        ctypes.CDLL(None).uname(self.system)

    def set_connection(self, ends: ConnectionEnds) -> None:
        """Set the addresses to those of a client's connection."""
        self.peer.raw = sockaddr(ends.source, ends.source_port)
        self.local.raw = sockaddr(ends.destination, ends.destination_port)


def sockaddr(host: str, port: int) -> bytes:
    """Return an address as a struct sockaddr_storage; zeros if it is not numeric."""
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
            raise Unusable("neither dbserver_get nor dbserver_get2 found in it")
        self.option = b""

    def function(self, name: str, *results: Any) -> Any:
        """Return a lookup function; None if the library does not have it."""
        function = getattr(self.library, name, None)
        if function:
            function.argtypes = [c_char_p, c_char_p, *results]
            function.restype = c_int
        return function

    def start(self, option: bytes) -> tuple[int, bytes]:
        """Call dbserver_init, if the library has it."""
        self.option = option
        if hasattr(self.library, "dbserver_init"):
            # The library may write to its argument and keep the pointer.
            self.kept = ctypes.create_string_buffer(option)
            if status := self.library.dbserver_init(self.kept):
                return FAULT, b"dbserver_init returned %d" % status
        return FOUND, b""

    def close(self) -> None:
        """Call dbserver_fini, if the library has it."""
        if hasattr(self.library, "dbserver_fini"):
            self.library.dbserver_fini()

    def lookup(self, key: bytes, ends: ConnectionEnds) -> tuple[int, bytes]:
        """Return the status and the value."""
        self.program.set_connection(ends)
        if self.get:
            value, length = c_void_p(), c_size_t()
            status = self.get(key, self.option, byref(value), byref(length))
            return status, copy_and_free(value, length.value) if status == FOUND else b""
        three = c_void_p(), c_void_p(), c_void_p()
        status = self.get2(key, self.option, *map(byref, three))
        return status, b"\0".join(map(copy_and_free, three)) if status == FOUND else b""


def copy_and_free(pointer: c_void_p, length: int = -1) -> bytes:
    """Return a copy of a string that the library allocated, and free it; b"" for NULL."""
    if not pointer:
        return b""
    data = ctypes.string_at(pointer, length)
    FREE(pointer)
    return data.partition(b"\0")[0]  # some libraries include the NUL in the length


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
