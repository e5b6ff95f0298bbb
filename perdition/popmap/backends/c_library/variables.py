"""Defines global variables that a C library expects in the program that loads it.

The dynamic loader refuses a library with an undefined variable, and ctypes cannot define one. This
module therefore generates a small ELF shared object that contains the variables and no code, in
the machine's own format and without a compiler.
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
ELF_HEADER = struct.Struct("16sHHIPPPIHHHHHH")
SEGMENT = struct.Struct("IIPPPPPP" if IS_WIDE else "IPPPPPIP")
ENTRY = struct.Struct("PP")
SYMBOL = struct.Struct("IBBHPP" if IS_WIDE else "IPPBBH")
HASH_NUMBER = "Q" if os.uname().machine in ("s390x", "alpha") else "I"
LARGEST_PAGE = 0x10000
"""The largest page size of any machine in bytes, used as the alignment on all machines."""


def define(*names: str) -> list[ctypes.c_void_p]:
    """Define global pointers, initially NULL, for libraries that are loaded later.

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

    The hash table has one bucket: the loader compares all names of its chain.
    """
    texts = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    dynamic = ELF_HEADER.size + 3 * SEGMENT.size
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
    data = b"".join(
        [
            elf_header(),
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
    return data.ljust(end, b"\0")


def elf_header() -> bytes:
    """Return an ELF header for the machine type of the running program."""
    with Path("/proc/self/exe").open("rb") as program:
        ident, _, machine, version, *_ = own = ELF_HEADER.unpack(program.read(ELF_HEADER.size))
    flags = own[7]
    sizes = (ELF_HEADER.size, SEGMENT.size, 3, 0, 0, 0)
    return ELF_HEADER.pack(ident, ET_DYN, machine, version, 0, ELF_HEADER.size, 0, flags, *sizes)


def segment(kind: int, offset: int, size: int, alignment: int) -> bytes:
    """Return a program header; the segment's address is its offset in the file."""
    if IS_WIDE:
        return SEGMENT.pack(kind, PF_RW, offset, offset, offset, size, size, alignment)
    return SEGMENT.pack(kind, offset, offset, offset, size, size, PF_RW, alignment)


def symbol(name: int, address: int) -> bytes:
    """Return a symbol table entry: the offset of the name, and the address of the pointer."""
    if IS_WIDE:
        return SYMBOL.pack(name, STB_GLOBAL_STT_OBJECT, 0, SOME_SECTION, address, WORD.size)
    return SYMBOL.pack(name, address, WORD.size, STB_GLOBAL_STT_OBJECT, 0, SOME_SECTION)
