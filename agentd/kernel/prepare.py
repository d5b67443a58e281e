"""Opens the BPF object, chooses the programs that this kernel can have, lets it verify them. Nothing is attached yet.

The maps of a set that is pinned already are adopted here (see loader.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi, features, lsm, shared, symbols
from agentd.kernel.compat import cgroup_programs, has_tracepoint, open_object
from agentd.kernel.hooks import HOOKS, Hook, LsmHook, prevented
from agentd.kernel.libbpf import KernelError, check, library, map_info, one_heap, pointer, quiet
from agentd.kernel.pins import adopt, close_all, control_id, epoch_of
from agentd.model import Op, Point
from agentd.resources import bpf_object

WORD: Final = 4
SERVICE_PINS: Final = Path("/sys/fs/bpf/agentd")
OBJECT: Final = "agentd.bpf.o"
MEMORY_MAPS: Final = ("remembered", "folders", "leaves", "readings", "destinations")  # of LSM hooks only
MIN_ARENA_WORDS: Final = 1 << 19  # 2 MiB: what a policy of one agent wants with the shipped catalogue, reload included
MAX_ARENA_WORDS: Final = 64 << 20  # 256 MiB: what can be asked for, not what is taken
ARENA_FILE: Final = Path("/var/lib/agentd/arena-words")  # what the policy of the service's last start wanted
CHECK_MEMORY = False  # tests only: what is allowed from memory is judged in full as well (bpf/lib/check.bpf.h)


@dataclass(slots=True)
class Prepared:
    """Programs that are attached nowhere. `obj` is libbpf's object, owned."""

    obj: int
    arena_words: int
    epoch: int
    adopted: int  # the kernel's id of the adopted map `control`; 0: the maps are new
    point: Point  # what the LSM hooks are here
    hooks: tuple[Hook | LsmHook, ...]

    def fits(self, pins: Path, arena_words: int) -> bool:
        """Is what was prepared still what is wanted? Another agentd may have taken charge meanwhile."""
        adopted = adopt(pins)
        try:
            if control_id(adopted) != self.adopted or epoch_of(adopted) + 1 != self.epoch:
                return False
            return bool(adopted) or self.arena_words >= arena_words
        finally:
            close_all(adopted)


class Preparation:
    """Lets the kernel verify in a thread what `load` will attach: that takes longer than anything else at a start.

    The thread makes one call that doesn't need Python: between two, it would wait for the other's turn to end.
    pins, and the arena's size: guesses; `load` prepares again when they turn out to be others, or not enough, which
    takes as long again.
    """

    def __init__(self, pins: Path) -> None:
        one_heap()
        self._result: Prepared | None = None
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)
        try:
            features.require_host()
            features.bpffs()
            self._result = _open(bpf_object(OBJECT), pins, arena_guess(pins), pin=True)
        except (AgentdError, OSError):
            pass  # load() meets the same, and tells
        self._thread.start()

    def _run(self) -> None:
        try:
            with quiet():  # a message is a call back into Python
                if self._result:
                    _verify(self._result)
        except AgentdError:
            self._result = None

    def take(self) -> Prepared | None:
        """What was prepared, to be owned; None: it failed, or was taken already."""
        self._thread.join()
        result, self._result = self._result, None
        return result


def arena_guess(pins: Path) -> int:
    """The arena that a start will want, in words, as far as that can be known before the policy is read."""
    try:
        words = int(ARENA_FILE.read_bytes()[:16]) if pins == SERVICE_PINS else 0
    except (OSError, ValueError):
        words = 0
    good = MIN_ARENA_WORDS < words <= MAX_ARENA_WORDS and not words & (words - 1)
    return words if good else MIN_ARENA_WORDS


def remember_arena(pins: Path, words: int) -> None:
    """For the next start of the service. If it can't be written, that one will take longer."""
    if pins == SERVICE_PINS and arena_guess(pins) != words:
        with contextlib.suppress(OSError):
            ARENA_FILE.write_text(f"{words}\n", encoding="ascii")


def prepare(path: Path, pins: Path, arena_words: int, pin: bool) -> Prepared:
    """The programs of an object file, verified. Raises KernelError."""
    opened = _open(path, pins, arena_words, pin)
    _verify(opened)
    return opened


def _verify(opened: Prepared) -> None:
    try:
        pointer_or_error(library().bpf_object__load(opened.obj), "the programs")
    except BaseException:
        library().bpf_object__close(opened.obj)
        raise


def _open(path: Path, pins: Path, arena_words: int, pin: bool) -> Prepared:
    lib = library()
    obj = open_object(path)
    adopted: dict[str, int] = {}
    try:
        adopted = adopt(pins) if pin else {}
        if adopted:
            arena_words = map_info(adopted["arena"]).value_size // WORD
        epoch = epoch_of(adopted) + 1
        point = lsm.point()
        set_constants(obj, _constants(point, epoch, arena_words))
        arena = pointer(lib.bpf_object__find_map_by_name(obj, b"arena"), "map arena")
        check(lib.bpf_map__set_value_size(arena, arena_words * WORD), "size of the arena", "kernel-load")
        for name, fd in adopted.items():
            found = pointer(lib.bpf_object__find_map_by_name(obj, name.encode()), f"map {name}")
            check(lib.bpf_map__reuse_fd(found, fd), f"adopt map {name}", "kernel-load")
        hooks = _choose_hooks(obj, point)
        for hook in hooks:
            if isinstance(hook, Hook) and hook.newer:
                lib.bpf_program__set_autoload(program_of(obj, hook.program), True)
        return Prepared(obj, arena_words, epoch, control_id(adopted), point, hooks)
    except BaseException:
        lib.bpf_object__close(obj)
        raise
    finally:
        close_all(adopted)


def _constants(point: Point, epoch: int, arena_words: int) -> abi.Constants:
    """What the programs take as given. Only LSM hooks need to know where the kernel keeps things."""
    constants = abi.Constants(epoch=epoch, arena_mask=arena_words - 1, sockets=int(point is Point.LSM))
    if point is not Point.NONE:
        found = symbols.ask()
        constants.rename_lock, constants.mount_lock = found.rename_lock, found.mount_lock
        constants.direct_map, constants.frame_mask = found.direct_map, found.frame_mask
        constants.top_shift = found.top_shift
        constants.memory = int(bool(found.rename_lock and found.mount_lock))
    constants.check = int(CHECK_MEMORY and constants.memory)
    return constants


def set_constants(obj: int, constants: abi.Constants) -> None:
    """Sets them, and leaves out the maps that with these constants no program uses. Raises KernelError."""
    set_map(obj, ".rodata.agentd", constants)
    unused = (*(() if constants.memory else MEMORY_MAPS), *(() if constants.check else ("checks",)))
    for name in unused:
        found_map = pointer(library().bpf_object__find_map_by_name(obj, name.encode()), f"map {name}")
        check(library().bpf_map__set_autocreate(found_map, False), f"map {name}")


def _choose_hooks(obj: int, point: Point) -> tuple[Hook | LsmHook, ...]:
    """The hooks that this kernel has. The network's are LSM hooks, or cgroup programs where there are none.

    Raises AgentdError `kernel-unsupported` for a host that has neither.
    """
    if point is Point.NONE and not cgroup_programs():
        raise AgentdError(
            "kernel-unsupported",
            "the network",
            "this kernel runs no LSM programs, and its cgroup programs can't tell whose a socket is",
            "boot Linux 6.16 or newer, or a kernel with BPF trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)",
            exit_code=EXIT_CANNOT_ENFORCE,
        )
    if point is Point.NONE and "PREEMPT_RT" in os.uname().version.split():
        raise AgentdError(
            "kernel-unsupported",
            "core dumps",
            "this kernel runs no LSM programs, and with PREEMPT_RT it can't be kept from writing them",
            "add bpf to lsm= on the kernel command line, or boot a kernel without PREEMPT_RT",
            exit_code=EXIT_CANNOT_ENFORCE,
        )
    hooks = tuple(hook for hook in HOOKS if not hook.newer or has_tracepoint(hook.newer))
    if point is Point.NONE:
        return hooks
    inline = lsm.choose(obj, point)
    shared.choose(obj, point)
    enough = prevented({hook.program for hook in inline}) == frozenset(Op) - {Op.CALL}
    plain = []
    for hook in hooks:
        if hook.point is Point.CGROUP or (hook.after and enough):
            library().bpf_program__set_autoload(program_of(obj, hook.program), False)
        else:
            plain.append(hook)
    return (*plain, *inline)


def program_of(obj: int, name: str) -> int:
    """libbpf's program of that name. Raises KernelError."""
    return pointer(library().bpf_object__find_program_by_name(obj, name.encode()), name)


def pointer_or_error(result: int, what: str) -> None:
    """bpf_object__load: the one call whose failure has many causes."""
    if result >= 0:
        return
    number = ctypes.get_errno() or -result
    hint = {
        errno.EPERM: "the kernel refuses bpf(): check root, lockdown and kernel.unprivileged_bpf_disabled",
        errno.ENOMEM: "not enough memory for the policy tables; make arena_mib smaller",
    }.get(number, "this kernel's verifier or BTF does not accept the programs; run agentd doctor")
    raise KernelError("kernel-load", f"load {what}", number, hint)


def set_map(obj: int, name: str, value: ctypes.Structure) -> None:
    """The contents that a map of an object that isn't loaded yet begins with. Raises KernelError."""
    found = pointer(library().bpf_object__find_map_by_name(obj, name.encode()), f"map {name}")
    check(
        library().bpf_map__set_initial_value(found, ctypes.byref(value), ctypes.sizeof(value)),
        f"map {name}",
        "kernel-load",
    )
