"""Parser of the lines that popmaps are created from."""

import os
from collections.abc import Callable, Iterable, Iterator

Entry = tuple[bytes, bytes]


def entries(lines: Iterable[bytes], warn: Callable[[str], None]) -> Iterator[Entry]:
    """Yield each line's key and value; warn about incomplete lines and duplicate keys.

    The key ends at the first colon, the value at the end of the line. Blank lines are skipped.
    """
    seen = set()
    for number, line in enumerate(lines, 1):
        key, _, value = line.removesuffix(b"\n").partition(b":")
        if not line.strip():
            continue
        if not key or not value:
            warn(f"line {number}: expected key:value, skipped")
        elif key in seen:
            warn(f"line {number}: {os.fsdecode(key)} is a duplicate, skipped")
        else:
            seen.add(key)
            yield key, value
