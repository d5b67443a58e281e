"""Finds functions and USDT probes in an ELF file that nobody vouches for. A program of its own, with no privileges and
little time.

`python3 elf.py FOLDER SECONDS NAME...`, the file on standard input; FOLDER: where pyelftools is; SECONDS: of CPU time;
NAME: a function, or PROVIDER:NAME of a USDT probe. One line of JSON comes back: {name: [[place, counter, arguments,
size]]}, in bytes, the first two from the file's beginning. A library has several symbols for a function that it offers
in several versions, at one place or at several; a probe has a note for each place that it was compiled into
(systemtap's UserSpaceProbeImplementation).
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
BYTES = 2 << 30  # of memory: symbol tables of large programs have some 10 MB
SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
NOTE = struct.Struct("<III")  # Elf64_Nhdr
PROBE = struct.Struct("<QQQ")  # its place, .stapsdt.base as it was linked, the counter
OWNER, KIND = b"stapsdt\0", 3
UNDEFINED = 0


def addresses(elf: Any, functions: list[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """(Function, address, size of its code) of every symbol that is defined."""
    for section in elf.iter_sections():
        if section["sh_type"] not in ("SHT_DYNSYM", "SHT_SYMTAB"):
            continue
        strings = elf.get_section(section["sh_link"]).data()
        named = {
            found.start(): name for name in functions for found in re.finditer(re.escape(name) + b"\0", strings)
        }  # fmt: skip
        data = section.data()
        for name, _, _, where, value, size in SYMBOL.iter_unpack(data[: len(data) // SYMBOL.size * SYMBOL.size]):
            if name in named and where != UNDEFINED:
                yield named[name], value, size


def notes(elf: Any) -> Iterator[tuple[str, int, int, str]]:
    """(Name, address, address of the counter or 0, arguments) of every USDT probe."""
    base = elf.get_section_by_name(".stapsdt.base")
    for section in elf.iter_sections():
        if section["sh_type"] != "SHT_NOTE" or section.name != ".note.stapsdt":
            continue
        data, at = section.data(), 0
        while at + NOTE.size <= len(data):
            owner_size, size, kind = NOTE.unpack_from(data, at)
            begin = at + NOTE.size + (owner_size + 3) // 4 * 4
            if data[at + NOTE.size :][:owner_size] == OWNER and kind == KIND and size > PROBE.size:
                place, linked, counter = PROBE.unpack_from(data, begin)
                provider, name, arguments = data[begin + PROBE.size : begin + size].split(b"\0")[:3]
                moved = base["sh_addr"] - linked if base and linked else 0
                word = f"{provider.decode()}:{name.decode()}"
                yield word, place + moved, counter and counter + moved, arguments.decode()
            at = begin + (size + 3) // 4 * 4


def find(elf: Any, names: list[str]) -> dict[str, list[tuple[int, int, str, int]]]:
    """The places of each name; of two symbols that don't agree on the size, the smaller one."""
    found: dict[str, dict[tuple[int, int, str], int]] = {name: {} for name in names}
    functions = [name.encode() for name in names if ":" not in name]
    for name, address, size in addresses(elf, functions) if functions else ():
        where = found[name.decode()]
        for place in elf.address_offsets(address):
            where[place, 0, ""] = min(size, where.get((place, 0, ""), size))
    for word, address, counter, arguments in notes(elf) if len(functions) < len(names) else ():
        if word in found:
            counters = [*elf.address_offsets(counter)] if counter else [0]
            if not counters:
                raise ValueError(f"the counter of {word} is not in the file")
            found[word] |= {(place, counters[0], arguments): 0 for place in elf.address_offsets(address)}
    return {name: sorted((*place, size) for place, size in where.items()) for name, where in found.items()}


def main() -> None:
    """Raises whatever a file can make it raise; nobody depends on which."""
    folder, seconds, *names = sys.argv[1:]
    sys.path.append(folder)
    from elftools.elf.elffile import ELFFile

    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(PermissionError):  # not root, or a service that may not change its user
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    elf = ELFFile(sys.stdin.buffer)
    if elf.elfclass != 64 or not elf.little_endian:
        raise ValueError("not ELF64, little-endian")
    print(json.dumps(find(elf, names)))


if __name__ == "__main__":
    main()
