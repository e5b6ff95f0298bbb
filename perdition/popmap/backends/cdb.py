"""A popmap in a constant database (cdb), as tinycdb and its like write it.

The format is that of https://cr.yp.to/cdb/cdb.txt: 256 pointers to hash tables, the records, the
tables; all numbers are of 32 bits, the lowest octet first.
"""

import os
import struct
from functools import reduce
from pathlib import Path

from perdition.files import SYSCONFDIR
from perdition.options.table import Options
from perdition.popmap.files import Database, DatabaseMap

TABLES = 256
PAIR = struct.Struct("<LL")
LONGEST_VALUE = 65_536


def open_map(options: Options) -> "ConstantMap":
    """Open a cdb map; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.cdb"
    return ConstantMap(path, options.domain_delimiter)


class ConstantMap(DatabaseMap):
    """A cdb file."""

    errors = (ValueError,)

    def open_database(self) -> Database:
        return ConstantDatabase(self.path)


class ConstantDatabase:
    """An open cdb file.

    It is read piece by piece: where a file is mapped into memory, whoever shortens it kills us.
    """

    def __init__(self, path: str) -> None:
        self.file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - kept open

    def get(self, key: bytes, /) -> bytes | None:
        """Return the first value of a key; raises ValueError where the file makes no sense."""
        hashed = hash_of(key)
        table, slots = self.pair(hashed % TABLES * PAIR.size)
        for probe in range(slots):
            slot = (hashed // TABLES + probe) % slots
            found, record = self.pair(table + slot * PAIR.size)
            if not record:
                break
            if found == hashed:
                key_length, value_length = self.pair(record)
                record += PAIR.size
                if key_length == len(key) and self.octets(record, key_length) == key:
                    return self.octets(record + key_length, value_length)
        return None

    def pair(self, offset: int) -> tuple[int, int]:
        """Return the two numbers at an offset."""
        first, second = PAIR.unpack(self.octets(offset, PAIR.size))
        return first, second

    def octets(self, offset: int, count: int) -> bytes:
        """Return some octets of the file; raises ValueError if they are not there."""
        if count > LONGEST_VALUE:
            raise ValueError(f"a value of {count} octets")
        found = os.pread(self.file.fileno(), count, offset)
        if len(found) < count:
            raise ValueError("it ends too early")
        return found

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def hash_of(key: bytes) -> int:
    """Return the hash by which a key is found."""
    return reduce(lambda total, octet: (total * 33 & 0xFFFFFFFF) ^ octet, key, 5381)
