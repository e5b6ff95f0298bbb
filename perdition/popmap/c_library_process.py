"""The process that a site's C library runs in.

    python3 -m perdition.popmap.c_library_process LIBRARY [DESCRIPTOR]

Without the descriptor of a socket it only tells whether the library can be used.
"""

import ctypes
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from typing import Any

from perdition.popmap.lookup_process import serve
from perdition.popmap.process import FAULT, FOUND

FREE = ctypes.CDLL(None).free
FREE.argtypes = [c_void_p]


class Unusable(Exception):
    """The library cannot be loaded, or has not what it must have."""


class Library:
    """A library and its functions."""

    def __init__(self, path: str) -> None:
        """Load the library; raises Unusable."""
        try:
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

    def lookup(self, key: bytes) -> tuple[int, bytes]:
        """Return the status, and what was found."""
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
