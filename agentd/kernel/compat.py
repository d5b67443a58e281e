"""One object for every kernel: what differs so much that neither CO-RE nor a weak symbol covers it."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Final

from agentd.kernel.features import BTF
from agentd.kernel.libbpf import OpenOpts, library, pointer

# 6.18 has this function with a `void *` at its end, later kernels with a structure, and beside it one of the plain name
# (KF_IMPLICIT_ARGS). libbpf 1.1 refuses an object with a prototype that differs, even for a weak symbol.
RESUME: Final = b"bpf_task_work_schedule_resume"
IMPL: Final = RESUME + b"_impl"

BPF_PROG_TYPE_CGROUP_SOCK: Final = 9
CALL: Final = 0x85  # BPF_JMP | BPF_CALL
EXIT: Final = 0x95
BPF_FUNC_TASK_STORAGE_GET: Final = 156


def open_object(path: Path) -> int:
    """bpf_object__open_file, with names that this kernel has with another prototype turned into names that it hasn't.

    Raises KernelError (`kernel-load`) and OSError.
    """
    if not described(RESUME):
        return pointer(library().bpf_object__open_file(os.fsencode(path), None), f"open {path.name}")
    data = path.read_bytes().replace(b"\0" + IMPL + b"\0", b"\0" + IMPL.upper() + b"\0")
    opts = OpenOpts(sz=ctypes.sizeof(OpenOpts), object_name=path.name.partition(".")[0].encode())
    return pointer(library().bpf_object__open_mem(data, len(data), ctypes.byref(opts)), f"open {path.name}")


@cache
def described(name: bytes) -> bool:
    """Does the kernel's own description of its types have this name?"""
    return b"\0" + name + b"\0" in BTF.read_bytes()


def has_tracepoint(name: str) -> bool:
    """Can a tp_btf program be for this trace point?"""
    return described(b"btf_trace_" + name.encode())


def has_task_work() -> bool:
    """Can a program give a task work to do before it returns to user mode (since Linux 6.18)?"""
    return described(RESUME) or described(IMPL)


@cache
def cgroup_programs() -> bool:
    """Can cgroup programs ask for the mark of a task (since Linux 6.16)?

    Tried: the verifier looks first whether a helper is for this type of program (EINVAL if it isn't), then at its
    arguments, of which there are none here (EACCES).
    """
    code = b"".join(
        bytes([opcode, 0, 0, 0]) + number.to_bytes(4, "little")
        for opcode, number in ((CALL, BPF_FUNC_TASK_STORAGE_GET), (EXIT, 0))
    )
    made = library().bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK, b"agentd_try", b"GPL", code, len(code) // 8, None)
    if made >= 0:
        os.close(made)
        return True
    return (ctypes.get_errno() or -made) == errno.EACCES
