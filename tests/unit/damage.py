"""Damages a gdbm file in many ways and looks users up in each; test_popmap runs this process.

It prints each offset before it tries it, so that a crash shows where it happened.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from perdition.endpoint import ConnectionEnds
from perdition.failure import MapUnavailable
from perdition.popmap import Query
from perdition.popmap.backends.gdbm import GdbmMap

HEADER = 512
STRIDE = 29
STDOUT = 1
NOBODY = ConnectionEnds("", 0, "", 0)


def damages(sound: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield damaged contents with the offset of the damage: changed bytes, then a missing end."""
    offsets = [*range(HEADER), *range(HEADER, len(sound), STRIDE)]
    for offset in offsets:
        for byte in (0, 0x7F, sound[offset] ^ 0xFF):
            yield offset, sound[:offset] + bytes([byte]) + sound[offset + 1 :]
    for end in range(0, len(sound), 509):
        yield end, sound[:end]


def main(sound: Path, damaged: Path, keys: list[str]) -> None:
    """Look the keys up in each damaged file; any answer and MapUnavailable will do."""
    for offset, data in damages(sound.read_bytes()):
        os.write(STDOUT, b"%d\n" % offset)
        damaged.write_bytes(data)
        popmap = GdbmMap(str(damaged), "@")
        for key in keys:
            try:
                popmap.lookup(Query(key, NOBODY))
            except MapUnavailable:
                break
        popmap.close()
    os.write(STDOUT, b"survived\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
