"""The LSM hooks of this host: whether their programs run as `lsm`, as `fmod_ret` or not at all.

Found by attaching one and looking whether it runs. Each hook's program is made into that kind before it is loaded.

`fmod_ret` is not taken where a workload can make the kernel leave its programs out (recursion.py) and the other points
can do without: exec, cgroup, trace and seccomp give less to who doesn't try, and hold against who does.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final

from agentd.kernel import recursion
from agentd.kernel.compat import cgroup_programs
from agentd.kernel.hooks import LSM_HOOKS, NOTES, Hook, LsmHook
from agentd.kernel.libbpf import BPF_ANY, check, library, pointer
from agentd.model import Point
from agentd.resources import bpf_object

OBJECT: Final = "canary.bpf.o"
PROG_TYPE_TRACING: Final = 26  # enum bpf_prog_type of linux/bpf.h
PROG_TYPE_LSM: Final = 29
MODIFY_RETURN: Final = 26  # enum bpf_attach_type
LSM_MAC: Final = 27


@cache
def point() -> Point:
    """Point.LSM, Point.FMOD_RET, or Point.NONE where there is neither, or only fmod_ret that can be passed by."""
    return Point.NONE if passed_over() else _kind()


@cache
def passed_over() -> bool:
    """Would programs run as `fmod_ret` here, and are not taken, because a workload can get past them? Decided once:
    marks and holds are of the points that agentd began with. A kernel that begins to preempt later fails the probes.
    """
    if _kind() is not Point.FMOD_RET or not cgroup_programs():
        return False
    return recursion.open_to_all(Point.FMOD_RET) and not recursion.open_to_all(Point.TRACE)


@cache
def _kind() -> Point:
    for candidate in (Point.LSM, Point.FMOD_RET):
        runs = _runs(candidate)
        if runs:
            return candidate
        if runs is None:  # the other kind needs the same of the kernel
            break
    return Point.NONE


def choose(obj: int, kind: Point) -> tuple[Hook | LsmHook, ...]:
    """Marks the programs of an object that isn't loaded yet; the hooks that this kernel has."""
    if kind is Point.NONE:
        return ()
    found = tuple(hook for hook in LSM_HOOKS if _make(obj, hook.program, hook, kind))
    if kind is not Point.FMOD_RET:
        return found
    lib = library()
    for note in NOTES:
        program = pointer(lib.bpf_object__find_program_by_name(obj, note.program.encode()), note.program)
        check(lib.bpf_program__set_autoload(program, True), note.program, "kernel-load")
    return (*found, *NOTES)


def _make(obj: int, program: str, hook: LsmHook, kind: Point) -> bool:
    lib = library()
    found = pointer(lib.bpf_object__find_program_by_name(obj, program.encode()), program)
    target = hook.name
    if kind is Point.FMOD_RET:
        lib.bpf_program__set_type(found, PROG_TYPE_TRACING)
        lib.bpf_program__set_expected_attach_type(found, MODIFY_RETURN)
        target = hook.function or f"security_{hook.name}"
    if lib.bpf_program__set_attach_target(found, 0, target.encode()) < 0:
        return False  # not in this kernel
    lib.bpf_program__set_autoload(found, True)
    return True


def stand_in(kind: Point) -> int:
    """A program of this kind, attached nowhere, for which what the hooks share is loaded (shared.py): its descriptor,
    which stays open. Raises KeyError where such programs don't run.
    """
    _runs(kind)
    return _stand_ins[kind]


_stand_ins: dict[Point, int] = {}


class _Canary(ctypes.Structure):
    """struct canary of bpf/canary.bpf.c."""

    _fields_ = [("tgid", ctypes.c_uint32), ("seen", ctypes.c_uint32)]


@cache
def _runs(kind: Point) -> bool | None:
    """Does a program of this kind run when this process opens a file? None: the kernel refuses to load it."""
    lib = library()
    obj = pointer(lib.bpf_object__open_file(os.fsencode(bpf_object(OBJECT)), None), f"open {OBJECT}")
    link = None
    try:
        for name in ("canary_open", "canary_shared"):
            if not _make(obj, name, LsmHook("file_open"), kind):
                return False
        if lib.bpf_object__load(obj) < 0:
            return None
        program = pointer(lib.bpf_object__find_program_by_name(obj, b"canary_open"), "canary_open")
        fd = lib.bpf_map__fd(pointer(lib.bpf_object__find_map_by_name(obj, b"canary"), "map canary"))
        key, value = ctypes.c_uint32(0), _Canary(tgid=os.getpid())
        check(lib.bpf_map_update_elem(fd, ctypes.byref(key), ctypes.byref(value), BPF_ANY), "map canary")
        link = pointer(lib.bpf_program__attach(program), "attach canary_open")
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        check(lib.bpf_map_lookup_elem(fd, ctypes.byref(key), ctypes.byref(value)), "map canary")
        if value.seen:
            shared = pointer(lib.bpf_object__find_program_by_name(obj, b"canary_shared"), "canary_shared")
            _stand_ins[kind] = os.dup(lib.bpf_program__fd(shared))
        return bool(value.seen)
    finally:
        if link:
            lib.bpf_link__destroy(link)
        lib.bpf_object__close(obj)
