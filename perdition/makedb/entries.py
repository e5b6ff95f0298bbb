"""The lines that popmaps are made from."""

import os
from collections.abc import Callable, Iterable, Iterator

Entry = tuple[bytes, bytes]


def entries(lines: Iterable[bytes], complain: Callable[[str], None]) -> Iterator[Entry]:
    """Yield each line's key and value; complain of lines that have not both, and of second keys.

    The key ends at the first colon, the value at the end of the line. Blank lines are skipped.
    """
    seen = set()
    for number, line in enumerate(lines, 1):
        key, _, value = line.removesuffix(b"\n").partition(b":")
        if not line.strip():
            continue
        if not key or not value:
            complain(f"line {number}: no key:value, skipped")
        elif key in seen:
            complain(f"line {number}: {os.fsdecode(key)} is there already, skipped")
        else:
            seen.add(key)
            yield key, value
