"""Where the running kernel keeps what no type describes: asked once by bpf/symbols.bpf.c, which only runs and is gone.

What the kernel does not tell is 0, and agentd does without: names are walked at every call, or a program whose
arguments decide is refused, because they can't be read before it runs.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from agentd.kernel.libbpf import TestRunOpts, check, library, pointer
from agentd.resources import bpf_object

OBJECT: Final = "symbols.bpf.o"
BASE_NOT_RANDOMIZED: Final = 0xFFFF888000000000  # __PAGE_OFFSET_BASE_L4, arch/x86/include/asm/page_64_types.h
FRAME: Final = 0x000FFFFFFFFFF000  # bits 12 to 51 of an entry


class Symbols(ctypes.Structure):
    """struct symbols of bpf/symbols.bpf.c."""

    _fields_ = [
        ("rename_lock", ctypes.c_uint64),
        ("mount_lock", ctypes.c_uint64),
        ("page_offset_base", ctypes.c_uint64),
        ("physical_mask", ctypes.c_uint64),
        ("pgdir_shift", ctypes.c_uint32),
        ("found", ctypes.c_uint32),
    ]

    @property
    def direct_map(self) -> int:
        """The kernel address of physical memory; 0: not known."""
        if self.page_offset_base:
            return int(self.page_offset_base)
        return BASE_NOT_RANDOMIZED if self.rename_lock and self.top_shift == 39 else 0

    @property
    def frame_mask(self) -> int:
        """The part of a page table's entry that is a physical address."""
        return FRAME & int(self.physical_mask or FRAME)

    @property
    def top_shift(self) -> int:
        """How far an address is shifted for the highest page table: 39 or 48 (five levels)."""
        return int(self.pgdir_shift or 39)


def ask() -> Symbols:
    """The answers of this kernel. Raises KernelError."""
    lib = library()
    obj = pointer(lib.bpf_object__open_file(os.fsencode(bpf_object(OBJECT)), None), f"open {OBJECT}")
    try:
        check(lib.bpf_object__load(obj), f"load {OBJECT}", "kernel-load")
        program = pointer(lib.bpf_object__find_program_by_name(obj, b"find_symbols"), "find_symbols")
        opts = TestRunOpts(sz=ctypes.sizeof(TestRunOpts))
        check(lib.bpf_prog_test_run_opts(lib.bpf_program__fd(program), ctypes.byref(opts)), "run find_symbols")
        fd = lib.bpf_map__fd(pointer(lib.bpf_object__find_map_by_name(obj, b"symbols"), "map symbols"))
        key, found = ctypes.c_uint32(0), Symbols()
        check(lib.bpf_map_lookup_elem(fd, ctypes.byref(key), ctypes.byref(found)), "map symbols")
        return found
    finally:
        lib.bpf_object__close(obj)
