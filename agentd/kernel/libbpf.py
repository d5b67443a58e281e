"""ctypes binding of libbpf 1.x (`libbpf.so.1`): exactly the calls agentd makes, their errors turned into KernelError.

The only foreign function interface of the project, with mount(2) and pidfd_open(2), which Python doesn't offer.
Sources: libbpf.h and bpf.h of libbpf 1.1 (Debian 12). Every pointer that libbpf gives stays inside agentd/kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

from agentd.errors import AgentdError

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_EXIST = 2

RING_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class KernelError(AgentdError):
    """A call into libbpf or the kernel failed. `errno` is the positive error number."""

    def __init__(self, code: str, what: str, number: int, hint: str = "") -> None:
        super().__init__(code, what, os.strerror(number), hint)
        self.errno = number


class MapCreateOpts(ctypes.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = [
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
        ("map_extra", c_uint64),
        ("numa_node", c_uint32),
        ("map_ifindex", c_uint32),
    ]


class TestRunOpts(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class ProgInfo(ctypes.Structure):
    """The head of struct bpf_prog_info, as far as the run-time statistics."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_ubyte * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", c_uint32),
        ("gpl_compatible", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
        ("attach_btf_obj_id", c_uint32),
        ("attach_btf_id", c_uint32),
    ]


class OpenOpts(ctypes.Structure):
    """The head of struct bpf_object_open_opts."""

    _fields_ = [("sz", c_size_t), ("object_name", c_char_p)]


class LinkInfo(ctypes.Structure):
    """struct bpf_link_info, as far as what a cgroup link has; for other links the last two mean something else."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("cgroup_id", c_uint64),
        ("attach_type", c_uint32),
    ]


class LinkCreateOpts(ctypes.Structure):
    """The head of struct bpf_link_create_opts."""

    _fields_ = [
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
    ]


class UprobeOpts(ctypes.Structure):
    """struct bpf_uprobe_opts."""

    _fields_ = [
        ("sz", c_size_t),
        ("ref_ctr_offset", c_size_t),
        ("bpf_cookie", c_uint64),
        ("retprobe", c_bool),
        ("func_name", c_char_p),
    ]


class MapInfo(ctypes.Structure):
    """The head of struct bpf_map_info."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * 16),
    ]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_num_possible_cpus": (c_int, []),
    "bpf_enable_stats": (c_int, [c_int]),
    "libbpf_set_print": (c_void_p, [_PRINT]),
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__open_mem": (c_void_p, [c_char_p, c_size_t, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__set_autocreate": (c_int, [c_void_p, c_bool]),
    "bpf_map__set_value_size": (c_int, [c_void_p, c_uint32]),
    "bpf_map__set_initial_value": (c_int, [c_void_p, c_void_p, c_size_t]),
    "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__set_type": (c_int, [c_void_p, c_int]),
    "bpf_program__set_expected_attach_type": (c_int, [c_void_p, c_int]),
    "bpf_program__set_attach_target": (c_int, [c_void_p, c_int, c_char_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, c_bool]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__attach_cgroup": (c_void_p, [c_void_p, c_int]),
    "bpf_program__attach_iter": (c_void_p, [c_void_p, c_void_p]),
    "bpf_program__attach_uprobe_opts": (c_void_p, [c_void_p, c_int, c_char_p, c_size_t, c_void_p]),
    "bpf_object__btf": (c_void_p, [c_void_p]),
    "btf__find_by_name_kind": (c_int, [c_void_p, c_char_p, c_uint32]),
    "bpf_link_create": (c_int, [c_int, c_int, c_int, c_void_p]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_iter_create": (c_int, [c_int]),
    "bpf_obj_pin": (c_int, [c_int, c_char_p]),
    "bpf_obj_get": (c_int, [c_char_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
    "bpf_map_create": (c_int, [c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
    "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_lookup_and_delete_batch": (c_int, [c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]),
    "bpf_prog_load": (c_int, [c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p]),
    "bpf_prog_test_run_opts": (c_int, [c_int, c_void_p]),
    "ring_buffer__new": (c_void_p, [c_int, RING_CALLBACK, c_void_p, c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__epoll_fd": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
}

_messages: list[str] = []


def _collect(level: int, text: bytes | None, args: int | None) -> int:
    """libbpf's messages, unformatted (a va_list can't be read portably): kept for the error that follows."""
    if level == 0 and text:
        _messages.append(text.decode("utf-8", "replace").strip())
        del _messages[:-20]
    return 0


_COLLECT = _PRINT(_collect)


@cache
def library() -> ctypes.CDLL:
    """libbpf, with every signature declared. Raises AgentdError `kernel-unsupported` when it isn't installed."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as exc:
        raise AgentdError("kernel-unsupported", "libbpf.so.1", str(exc), "install the package libbpf1") from exc
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    lib.libbpf_set_print(_COLLECT)
    return lib


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No messages of libbpf meanwhile, of any thread."""
    library().libbpf_set_print(_PRINT(0))
    try:
        yield
    finally:
        library().libbpf_set_print(_COLLECT)


def check(result: int, what: str, code: str = "kernel-map") -> int:
    """A libbpf call that answers a negative error, or -1 with errno set."""
    if result < 0:
        raise KernelError(code, what, ctypes.get_errno() or -result)
    return result


def pointer(result: int | None, what: str, code: str = "kernel-load") -> int:
    """A libbpf call that answers a pointer, or NULL with errno set."""
    if not result:
        number = ctypes.get_errno()
        hint = {
            errno.EPERM: "this needs root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN)"
            " and a kernel that allows bpf()",
            errno.EACCES: "this needs root, and a program the kernel's verifier accepts",
        }.get(number, "")
        raise KernelError(code, what, number or errno.EINVAL, hint)
    return result


def map_info(fd: int) -> MapInfo:
    """bpf_obj_get_info_by_fd for a map."""
    info = MapInfo()
    size = c_uint32(ctypes.sizeof(info))
    check(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "map info")
    return info


def prog_info(fd: int) -> ProgInfo:
    """bpf_obj_get_info_by_fd for a program."""
    info = ProgInfo()
    size = c_uint32(ctypes.sizeof(info))
    check(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "program info")
    return info


def link_info(fd: int) -> LinkInfo:
    """bpf_obj_get_info_by_fd for a link."""
    info = LinkInfo()
    size = c_uint32(ctypes.sizeof(info))
    check(library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "link info")
    return info


def obj_get(path: Path) -> int:
    """The file descriptor of a pinned map, program or link."""
    return check(library().bpf_obj_get(os.fsencode(path)), f"pin {path}")


def obj_pin(fd: int, path: Path) -> None:
    """Pins a map, program or link in bpffs, over whatever is pinned there (rename(2): there is always one)."""
    fresh = path.with_name(path.name + "-new")
    if fresh.exists():
        fresh.unlink()
    check(library().bpf_obj_pin(fd, os.fsencode(fresh)), f"pin {path}")
    os.rename(fresh, path)


def mount(source: str, target: str, fstype: str) -> None:
    """mount(2) with no flags. Raises KernelError `kernel-unsupported`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), fstype.encode(), 0, None):
        raise KernelError("kernel-unsupported", f"mount {fstype} on {target}", ctypes.get_errno())


def filesystem(path: Path) -> int:
    """statfs(2): what kind of file system is there (f_type, linux/magic.h). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = (ctypes.c_long * 32)()
    if libc.statfs(os.fsencode(path), ctypes.byref(found)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return found[0] & 0xFFFFFFFF


def unmount(target: str) -> None:
    """umount2(2), detached; what isn't mounted stays so."""
    ctypes.CDLL(None).umount2(os.fsencode(target), 2)


def wait_for_programs() -> None:
    """Returns when every BPF program that was running when it was called has ended.

    Updating a map of maps from user space waits for an RCU grace period (kernel/bpf/syscall.c,
    maybe_wait_bpf_programs), and programs that can't sleep run inside one.
    """
    lib = library()
    inner = check(lib.bpf_map_create(2, b"agentd_inner", 4, 4, 1, None), "create map")
    try:
        opts = MapCreateOpts(sz=ctypes.sizeof(MapCreateOpts), inner_map_fd=inner)
        outer = check(lib.bpf_map_create(12, b"agentd_outer", 4, 4, 1, ctypes.byref(opts)), "create map")
        try:
            key, value = c_uint32(0), c_uint32(inner)
            check(lib.bpf_map_update_elem(outer, ctypes.byref(key), ctypes.byref(value), BPF_ANY), "wait for programs")
        finally:
            os.close(outer)
    finally:
        os.close(inner)


M_ARENA_MAX: Final = -8  # malloc.h of glibc


def one_heap() -> None:
    """Makes threads that begin later allocate from the heap of the first: give_memory_back() reaches no other's end."""
    choose = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's, like the next
    if choose:
        choose(M_ARENA_MAX, 1)


def give_memory_back() -> None:
    """Returns to the system what libbpf needed for the kernel's types while it loaded: malloc would keep some 20 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
