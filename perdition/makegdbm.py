"""makegdbm: turn ``key:value`` lines into a gdbm file, and back.

Used as ``makegdbm FILE < LINES`` and ``makegdbm --undo FILE > LINES``.
"""

import dbm.gnu
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

USAGE = """\
Usage: {name} FILE        read key:value lines from standard input and write them to FILE
       {name} -u FILE     write FILE's entries to standard output, a line each
Options:
  -u, --undo    the way back
  -h, --help    show this
"""


def entries(
    lines: Iterable[bytes], complain: Callable[[str], None]
) -> Iterator[tuple[bytes, bytes]]:
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


def make(path: Path, lines: Iterable[bytes], complain: Callable[[str], None]) -> None:
    """Write a new file and put it in its place at once: readers see the old one or the new one.

    Raises OSError and dbm.gnu.error.
    """
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    new = Path(name)
    try:
        with dbm.gnu.open(name, "nf") as database:
            for key, value in entries(lines, complain):
                database[key] = value
            database.sync()
        new.chmod(mode)
        new.replace(path)
    except BaseException:
        new.unlink()
        raise


def undo(path: Path, write: Callable[[bytes], object]) -> None:
    """Write each entry as a line; raises dbm.gnu.error."""
    with dbm.gnu.open(str(path), "ru") as database:
        key = database.firstkey()
        while key is not None:
            write(key + b":" + database[key] + b"\n")
            key = database.nextkey(key)


def main(arguments: list[str]) -> int:
    """Run the command; ``arguments`` begin with its name."""
    name = Path(arguments[0]).name
    backward = bool({"-u", "--undo"} & set(arguments[1:]))
    files = [argument for argument in arguments[1:] if not argument.startswith("-")]
    unknown = set(arguments[1:]) - set(files) - {"-u", "--undo", "-h", "--help"}
    if {"-h", "--help"} & set(arguments[1:]):
        print(USAGE.format(name=name), end="")
        return os.EX_OK
    if len(files) != 1 or unknown:
        print(USAGE.format(name=name), end="", file=sys.stderr)
        return os.EX_USAGE

    def complain(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr)

    try:
        if backward:
            undo(Path(files[0]), sys.stdout.buffer.write)
        else:
            make(Path(files[0]), sys.stdin.buffer, complain)
    except (OSError, dbm.gnu.error) as error:
        complain(f"{files[0]}: {error.args[-1]}")
        return os.EX_IOERR
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
