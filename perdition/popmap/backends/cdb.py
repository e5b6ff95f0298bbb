"""A popmap in a constant database (cdb), as written by tinycdb.

The format is that of https://cr.yp.to/cdb/cdb.txt: 256 pointers to hash tables, the records, the
tables. Numbers have 32 bits and are little-endian.
"""

import os
import struct
from functools import reduce
from pathlib import Path
from typing import Any

from perdition.files import SYSCONFDIR
from perdition.options.table import Options
from perdition.popmap.file_map import Database, DatabaseMap

TABLES = 256
PAIR = struct.Struct("<LL")
MAX_VALUE = 65_536


def open_map(options: Options) -> "ConstantMap":
    """Open a cdb map; ``map_library_opt`` is its file."""
    path = options.map_library_opt or f"{SYSCONFDIR}/popmap.cdb"
    return ConstantMap(path, options.domain_delimiter)


class ConstantMap(DatabaseMap):
    """A cdb file."""

    errors = (ValueError,)

    def open_database(self, path: str) -> Database:
        return ConstantDatabase(path)

    def has_entries(self, database: Any) -> bool:
        return any(slots for _, slots in database.tables)


class ConstantDatabase:
    """An open cdb file.

    It uses pread, not mmap: if another process shortened a mapped file, a read would raise SIGBUS.
    """

    def __init__(self, path: str) -> None:
        self.file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - stays open
        try:
            self.tables = self.check_tables()
        except BaseException:
            self.file.close()
            raise

    def check_tables(self) -> list[tuple[int, int]]:
        """Return position and slots of each hash table; raises ValueError for an unfinished file.

        The pointers are written last: until then they are zero.
        """
        size = os.fstat(self.file.fileno()).st_size
        tables = list(PAIR.iter_unpack(self.read_bytes(0, TABLES * PAIR.size)))
        for position, slots in tables:
            if not TABLES * PAIR.size <= position <= size - slots * PAIR.size:
                raise ValueError("a hash table is outside of the file")
        return tables

    def get(self, key: bytes, /) -> bytes | None:
        """Return the first value of a key; raises ValueError for a damaged file."""
        hashed = hash_of(key)
        table, slots = self.tables[hashed % TABLES]
        for probe in range(slots):
            slot = (hashed // TABLES + probe) % slots
            entry_hash, record = self.pair(table + slot * PAIR.size)
            if not record:
                break
            if entry_hash == hashed:
                key_length, value_length = self.pair(record)
                record += PAIR.size
                if key_length == len(key) and self.read_bytes(record, key_length) == key:
                    return self.read_bytes(record + key_length, value_length)
        return None

    def pair(self, offset: int) -> tuple[int, int]:
        first, second = PAIR.unpack(self.read_bytes(offset, PAIR.size))
        return first, second

    def read_bytes(self, offset: int, count: int) -> bytes:
        """Return bytes of the file; raises ValueError at its end."""
        if count > MAX_VALUE:
            raise ValueError(f"value of {count} bytes")
        data = os.pread(self.file.fileno(), count, offset)
        if len(data) < count:
            raise ValueError("file is too short")
        return data

    def close(self) -> None:
        self.file.close()


def hash_of(key: bytes) -> int:
    """Return cdb's hash of a key."""
    return reduce(lambda total, byte: (total * 33 & 0xFFFFFFFF) ^ byte, key, 5381)
