"""The lookup process for NIS.

python3 -m perdition.popmap.backends.nis_process DESCRIPTOR
"""

import ctypes
import sys
from ctypes import byref, c_char_p, c_int, c_void_p
from ctypes.util import find_library

from perdition.endpoint import ConnectionEnds
from perdition.popmap.lookup_process import serve
from perdition.popmap.process_map import FAULT, FOUND, NO_SUCH_KEY

DEFAULT_MAP = b"user_mail_server"

YPERR_BADARGS = 1
"""The status for an empty key."""
YPERR_KEY = 5


class NIS:
    """A map of the system's own domain."""

    def start(self, option: bytes) -> tuple[int, bytes]:
        """Load the library and get the domain."""
        self.map = option or DEFAULT_MAP
        try:
            self.library = ctypes.CDLL(find_library("nsl"))
            self.library.yperr_string.restype = c_char_p
            domain = c_char_p()
            status = self.library.yp_get_default_domain(byref(domain))
        except (OSError, AttributeError) as error:
            return FAULT, f"cannot load libnsl: {error}".encode()
        self.domain = domain.value
        return (FAULT, self.library.yperr_string(status)) if status else (FOUND, b"")

    def lookup(self, key: bytes, ends: ConnectionEnds) -> tuple[int, bytes]:
        del ends
        value, length = c_void_p(), c_int()
        status = self.library.yp_match(
            self.domain, self.map, key, len(key), byref(value), byref(length)
        )
        if status in (YPERR_KEY, YPERR_BADARGS):
            return NO_SUCH_KEY, b""
        if status:
            return FAULT, self.library.yperr_string(status)
        text = ctypes.string_at(value, length.value)
        ctypes.CDLL(None).free(value)
        return FOUND, text

    def close(self) -> None:
        """Do nothing: the connection ends with the process."""


if __name__ == "__main__":
    serve(NIS(), int(sys.argv[1]))
