"""Variables that a C library finds in the program that loads it.

The system's loader refuses a library that mentions a variable which nobody has, and Python cannot
show it any. So a shared object is written here, without a compiler: a few hundred octets of the
kind that this machine runs, with these variables and no code.
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

# The names and numbers of the System V ABI. Native sizes and alignment make the formats right.
ET_DYN = 3
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
PF_RW = 6
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT = 0, 4, 5, 6, 10, 11
STB_GLOBAL_STT_OBJECT = 0x11
SOME_SECTION = 1

WORD = struct.Struct("P")
IS_WIDE = WORD.size == 8
HEAD = struct.Struct("16sHHIPPPIHHHHHH")
SEGMENT = struct.Struct("IIPPPPPP" if IS_WIDE else "IPPPPPIP")
ENTRY = struct.Struct("PP")
SYMBOL = struct.Struct("IBBHPP" if IS_WIDE else "IPPBBH")
HASH_NUMBER = "Q" if os.uname().machine in ("s390x", "alpha") else "I"
LARGEST_PAGE = 0x10000
"""Octets: of all machines' pages, so that each may load the object."""


def define(*names: str) -> list[ctypes.c_void_p]:
    """Define pointers, NULL at first, for the libraries that are loaded from now on.

    Raises OSError.
    """
    descriptor = os.memfd_create("variables")
    try:
        os.write(descriptor, shared_object(names))
        library = ctypes.CDLL(f"/proc/self/fd/{descriptor}", ctypes.RTLD_GLOBAL)
    finally:
        os.close(descriptor)
    return [ctypes.c_void_p.in_dll(library, name) for name in names]


def shared_object(names: Sequence[str]) -> bytes:
    """Return a shared object with a pointer of each name.

    All names are in the only chain of the hash table: the loader compares them one by one.
    """
    texts = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    dynamic = HEAD.size + 3 * SEGMENT.size
    symbols = dynamic + 6 * ENTRY.size
    table = symbols + (1 + len(names)) * SYMBOL.size
    chain = [1, 1 + len(names), 1, 0, *range(2, 1 + len(names)), 0]
    hashes = struct.pack(f"{len(chain)}{HASH_NUMBER}", *chain)
    strings = table + len(hashes)
    pointers = strings + len(texts) + -(strings + len(texts)) % WORD.size
    end = pointers + len(names) * WORD.size
    entries = [
        (DT_HASH, table),
        (DT_STRTAB, strings),
        (DT_SYMTAB, symbols),
        (DT_STRSZ, len(texts)),
        (DT_SYMENT, SYMBOL.size),
        (DT_NULL, 0),
    ]
    octets = b"".join(
        [
            head(),
            segment(PT_LOAD, 0, end, LARGEST_PAGE),
            segment(PT_DYNAMIC, dynamic, symbols - dynamic, WORD.size),
            segment(PT_GNU_STACK, 0, 0, WORD.size),
            *(ENTRY.pack(*entry) for entry in entries),
            bytes(SYMBOL.size),
            *(
                symbol(texts.index(b"\0" + name.encode() + b"\0") + 1, pointers + at * WORD.size)
                for at, name in enumerate(names)
            ),
            hashes,
            texts,
        ]
    )
    return octets.ljust(end, b"\0")


def head() -> bytes:
    """Return the head of an object for the machine that this process's program is made for."""
    with Path("/proc/self/exe").open("rb") as program:
        ident, _, machine, version, *_ = own = HEAD.unpack(program.read(HEAD.size))
    flags = own[7]
    sizes = (HEAD.size, SEGMENT.size, 3, 0, 0, 0)
    return HEAD.pack(ident, ET_DYN, machine, version, 0, HEAD.size, 0, flags, *sizes)


def segment(kind: int, offset: int, size: int, alignment: int) -> bytes:
    """Return the header of a segment, which is loaded from where it is in the file."""
    if IS_WIDE:
        return SEGMENT.pack(kind, PF_RW, offset, offset, offset, size, size, alignment)
    return SEGMENT.pack(kind, offset, offset, offset, size, size, PF_RW, alignment)


def symbol(name: int, place: int) -> bytes:
    """Return the entry of a pointer: where its name is among the texts, and where it is itself."""
    if IS_WIDE:
        return SYMBOL.pack(name, STB_GLOBAL_STT_OBJECT, 0, SOME_SECTION, place, WORD.size)
    return SYMBOL.pack(name, place, WORD.size, STB_GLOBAL_STT_OBJECT, 0, SOME_SECTION)
