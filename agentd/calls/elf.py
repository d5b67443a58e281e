"""Finds functions in an ELF file that nobody vouches for. A program of its own, with no privileges and little time.

`python3 elf.py FOLDER FUNCTION...`, the file on standard input; FOLDER: where pyelftools is. One line of JSON comes
back: {function: [places]}, in bytes from the file's beginning. A library has several symbols for a function that it
offers in several versions, at one place or at several.
"""

import contextlib
import json
import os
import re
import resource
import struct
import sys
from collections.abc import Iterator
from typing import Any

NOBODY = 65534
SECONDS = 10  # of CPU time
BYTES = 2 << 30  # of memory: symbol tables of large programs have some 10 MB
SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
UNDEFINED = 0


def addresses(elf: Any, functions: list[bytes]) -> Iterator[tuple[bytes, int]]:
    """(Function, address) of every symbol that is defined."""
    for section in elf.iter_sections():
        if section["sh_type"] not in ("SHT_DYNSYM", "SHT_SYMTAB"):
            continue
        strings = elf.get_section(section["sh_link"]).data()
        named = {
            found.start(): name for name in functions for found in re.finditer(re.escape(name) + b"\0", strings)
        }  # fmt: skip
        data = section.data()
        for name, _, _, where, value, _ in SYMBOL.iter_unpack(data[: len(data) // SYMBOL.size * SYMBOL.size]):
            if name in named and where != UNDEFINED:
                yield named[name], value


def main() -> None:
    """Raises whatever a file can make it raise; nobody depends on which."""
    folder, *functions = sys.argv[1:]
    sys.path.append(folder)
    from elftools.elf.elffile import ELFFile

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(PermissionError):  # not root, or a service that may not change its user
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    elf = ELFFile(sys.stdin.buffer)
    if elf.elfclass != 64 or not elf.little_endian:
        raise ValueError("not ELF64, little-endian")
    found: dict[str, set[int]] = {function: set() for function in functions}
    for name, address in addresses(elf, [function.encode() for function in functions]):
        found[name.decode()].update(elf.address_offsets(address))
    print(json.dumps({name: sorted(places) for name, places in found.items()}))


if __name__ == "__main__":
    main()
