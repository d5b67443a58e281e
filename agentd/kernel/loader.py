"""Loads the BPF object, attaches every program or none, and pins what must outlive this process.

One set of programs and maps is pinned in one folder of bpffs: `maps/`, `links/` and `tasks` (an iterator: reading it
lists the marked tasks). A daemon that comes back finds the folder, adopts the maps, loads its own programs beside the
old ones, and takes over with one store (agentd_control.epoch): the programs that are not in charge return at once, so
there is no moment without enforcement and none with two verdicts.

With the process gone, the pins keep enforcing. They are removed on purpose only: release(), and unwatch() while no task
carries a mark.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi, features, lsm
from agentd.kernel.compat import cgroup_programs, open_object
from agentd.kernel.hooks import HOOKS, Hook, LsmHook, prevented
from agentd.kernel.libbpf import KernelError, check, library, map_info, obj_pin, pointer, prog_info, quiet
from agentd.kernel.maps import HashMap, MappedArray, PerCpuCounters
from agentd.kernel.pins import (
    PINNED_MAPS,
    adopt,
    close_all,
    control_id,
    drop_stale_links,
    epoch_of,
    names_watched,
    pin_links,
    unpin_links,
)
from agentd.kernel.pins import pinned_tasks as pinned_tasks
from agentd.kernel.pins import read_tasks as read_tasks
from agentd.kernel.pins import remove_pins as remove_pins
from agentd.model import Op, Point
from agentd.resources import bpf_object

WORD: Final = 4
SERVICE_PINS: Final = Path("/sys/fs/bpf/agentd")
OBJECT: Final = "agentd.bpf.o"
MIN_ARENA_WORDS: Final = 1 << 18  # 1 MiB


class LoadedObject:
    """The programs in the kernel, and views of the maps."""

    def __init__(
        self, obj: int, fds: dict[str, int], hooks: tuple[Hook | LsmHook, ...], links: dict[str, int], pins: Path
    ) -> None:
        self._obj = obj
        self._hooks = hooks
        self._links = links
        self._iterators: dict[str, int] = {}
        self.programs = {hook.program: library().bpf_program__fd(_program(obj, hook.program)) for hook in hooks}
        self.pins = pins
        self.pinned = False
        self.fds = fds
        self.arena_words = map_info(fds["arena"]).value_size // WORD
        self.agents = MappedArray(fds["agents"], ctypes.sizeof(abi.Agent) * abi.MAX_AGENTS)
        self.control_map = MappedArray(fds["control"], ctypes.sizeof(abi.Control))
        self.control = self.control_map.view(abi.Control)
        self.request_map = MappedArray(fds[".data.request"], ctypes.sizeof(abi.TagRequest))
        self.request = self.request_map.view(abi.TagRequest)
        self.counts = tuple(
            HashMap(fds[name], abi.CountKey, abi.Count, map_info(fds[name]).max_entries, name)
            for name in ("counts0", "counts1")
        )
        self.grants = HashMap(fds["grants"], abi.GrantKey, abi.Grant, map_info(fds["grants"]).max_entries, "grants")
        self.answers = HashMap(
            fds["answers"], ctypes.c_uint64, ctypes.c_uint32, map_info(fds["answers"]).max_entries, "answers"
        )
        self.stats = PerCpuCounters(fds["stats"], abi.STAT_COUNT)
        self._with_names = any(hook.program in links for hook in hooks if hook.names)

    def program_seconds(self) -> dict[str, float]:
        """Run time of each program in seconds; zeros unless kernel.bpf_stats_enabled is on."""
        return {name: prog_info(fd).run_time_ns / 1e9 for name, fd in self.programs.items()}

    @property
    def prevented(self) -> frozenset[Op]:
        """The operations that LSM hooks judge on this host, before their effect."""
        return prevented({hook.program for hook in self._hooks})

    def links(self) -> set[str]:
        """The programs that are attached."""
        return set(self._links)

    def capacity(self, name: str) -> int:
        """How many entries map `name` can hold."""
        return int(map_info(self.fds[name]).max_entries)

    @property
    def watching(self) -> bool:
        """Are the programs attached?"""
        return bool(self._links)

    def watch(self) -> None:
        """Attaches and pins every program, or none, if they aren't. Raises KernelError.

        Before every mark: a task must not carry one while the programs are away.
        """
        if not self._links:
            self._links = self._attach([hook for hook in self._hooks if self._with_names or not hook.names])

    def watch_names(self, wanted: bool) -> None:
        """Are answers of resolvers to be read? Attaches or detaches what reads them, now or with the other programs.

        Raises KernelError; nothing has changed then.
        """
        hooks = [hook for hook in self._hooks if hook.names]
        if wanted and not self._with_names and self._links:
            self._links |= self._attach(hooks)
        elif not wanted and self._with_names and self._links:
            going = {hook.program: self._links.pop(hook.program) for hook in hooks}
            if self.pinned:
                unpin_links(self.pins, self.control.epoch, going)
            _destroy(going)
        self._with_names = wanted

    def _attach(self, hooks: Sequence[Hook | LsmHook]) -> dict[str, int]:
        links = _attach_hooks(self._obj, hooks)
        try:
            if self.pinned:
                pin_links(self.pins, links, self.control.epoch)
        except BaseException:
            unpin_links(self.pins, self.control.epoch, links)
            _destroy(links)
            raise
        return links

    def unwatch(self) -> None:
        """Detaches the programs, so that nobody pays for them. Only when no task carries a mark."""
        if self.pinned:
            unpin_links(self.pins, self.control.epoch)
        _destroy(self._links)
        self._links = {}

    def iterator(self, program: str) -> int:
        """A new file descriptor that runs an iterator program when it is read."""
        link = self._iterators.get(program)
        if link is None:
            found = library().bpf_object__find_program_by_name(self._obj, program.encode())
            link = pointer(library().bpf_program__attach_iter(pointer(found, program), None), f"iterator {program}")
            self._iterators[program] = link
        return check(library().bpf_iter_create(library().bpf_link__fd(link)), f"iterator {program}")

    def close(self) -> None:
        """Lets go of everything that isn't pinned."""
        for link in (*self._iterators.values(), *self._links.values()):
            library().bpf_link__destroy(link)
        self._iterators.clear()
        self._links.clear()
        library().bpf_object__close(self._obj)

    def release(self) -> None:
        """Ends enforcement: removes the pins and detaches the programs."""
        remove_pins(self.pins)
        self.close()


@dataclass(slots=True)
class Prepared:
    """Programs that the kernel has verified and that are attached nowhere. `obj` is libbpf's object, owned."""

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
    """Prepares in a thread what `load` will attach: the verifier takes longer than anything else at a start.

    pins, arena_words: guesses; `load` prepares again when they turn out to be others, or not enough.
    """

    def __init__(self, pins: Path, arena_words: int = MIN_ARENA_WORDS) -> None:
        self._pins = pins
        self._arena_words = arena_words
        self._result: Prepared | None = None
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            features.require_root()
            features.require_btf()
            features.bpffs()
            with quiet():  # a message is a call back into Python, and waits for the other thread's turn to end
                self._result = _prepare(bpf_object(OBJECT), self._pins, self._arena_words, pin=True)
        except (AgentdError, OSError):
            self._result = None  # load() meets the same, and tells

    def take(self) -> Prepared | None:
        """What was prepared, to be owned; None: it failed, or was taken already."""
        self._thread.join()
        result, self._result = self._result, None
        return result


def load(
    pins: Path,
    *,
    arena_words: int,
    object_name: str = OBJECT,
    pin: bool = True,
    preparation: Preparation | None = None,
) -> LoadedObject:
    """Loads and attaches everything, and takes charge.

    pins: the folder in bpffs; maps that are pinned there already are adopted (arena_words is then theirs).
    preparation: of the same pins; used if it still fits.
    Raises AgentdError (`not-root`, `kernel-unsupported`, `kernel-load`); nothing stays attached that wasn't.
    """
    features.require_root()
    features.require_btf()
    path = bpf_object(object_name)
    if not path.exists():
        raise AgentdError("kernel-load", str(path), "not built", "run ./dev build", exit_code=EXIT_CANNOT_ENFORCE)
    if pin:
        features.bpffs()
    if arena_words & (arena_words - 1):
        raise ValueError("the arena's size must be a power of two")
    try:
        prepared = preparation.take() if preparation else None
        if prepared and not prepared.fits(pins, arena_words):
            library().bpf_object__close(prepared.obj)
            prepared = None
        return _attach(prepared or _prepare(path, pins, arena_words, pin), pins, pin)
    except KernelError as exc:
        exc.exit_code = EXIT_CANNOT_ENFORCE
        raise


def _prepare(path: Path, pins: Path, arena_words: int, pin: bool) -> Prepared:
    lib = library()
    obj = open_object(path)
    adopted: dict[str, int] = {}
    try:
        adopted = adopt(pins) if pin else {}
        if adopted:
            arena_words = map_info(adopted["arena"]).value_size // WORD
        epoch = epoch_of(adopted) + 1
        _set_map(obj, ".rodata.agentd", abi.Constants(epoch=epoch, arena_mask=arena_words - 1))
        arena = pointer(lib.bpf_object__find_map_by_name(obj, b"arena"), "map arena")
        check(lib.bpf_map__set_value_size(arena, arena_words * WORD), "size of the arena", "kernel-load")
        for name, fd in adopted.items():
            found = pointer(lib.bpf_object__find_map_by_name(obj, name.encode()), f"map {name}")
            check(lib.bpf_map__reuse_fd(found, fd), f"adopt map {name}", "kernel-load")
        point = lsm.point()
        hooks = _choose_hooks(obj, point)
        pointer_or_error(lib.bpf_object__load(obj), path.name)
        return Prepared(obj, arena_words, epoch, control_id(adopted), point, hooks)
    except BaseException:
        lib.bpf_object__close(obj)
        raise
    finally:
        close_all(adopted)


def _choose_hooks(obj: int, point: Point) -> tuple[Hook | LsmHook, ...]:
    """The hooks that this kernel has. The network's are cgroup programs, or LSM hooks where those can't do it."""
    by_cgroup = cgroup_programs()
    for hook in HOOKS:
        if hook.cgroup and not by_cgroup:
            library().bpf_program__set_autoload(_program(obj, hook.program), False)
    plain = tuple(hook for hook in HOOKS if by_cgroup or not hook.cgroup)
    return (*plain, *lsm.choose(obj, point, network=not by_cgroup))


def _attach(prepared: Prepared, pins: Path, pin: bool) -> LoadedObject:
    lib = library()
    obj = prepared.obj
    links: dict[str, int] = {}
    try:
        fds = {name: _map_fd(obj, name) for name in (*PINNED_MAPS, ".data.request")}
        # An agentd before this one may have read answers: until the policy is in force they must not go unread.
        answers = pin and names_watched(pins)
        links = _attach_hooks(obj, [hook for hook in prepared.hooks if answers or not hook.names])
        loaded = LoadedObject(obj, fds, prepared.hooks, links, pins)
        if not prepared.adopted:
            loaded.control.hash_seed[:] = [int.from_bytes(os.urandom(8), "little") for _ in range(2)]
            loaded.control.abi = abi.ABI_VERSION
        if pin:
            _pin(loaded, fds, links, prepared.epoch)
            loaded.pinned = True
        loaded.control.point = prepared.point
        loaded.control.prevented = sum(1 << op for op in loaded.prevented)
        loaded.control.tagging = 0  # left by an agentd that died while it tagged
        loaded.control.epoch = prepared.epoch  # in charge from here on
    except BaseException:
        if pin:
            unpin_links(pins, prepared.epoch)
        _destroy(links)
        lib.bpf_object__close(obj)
        raise
    if pin:
        drop_stale_links(pins, prepared.epoch)
    return loaded


def _attach_hooks(obj: int, hooks: Sequence[Hook | LsmHook]) -> dict[str, int]:
    """A link for every hook, or none: an error takes back what was attached."""
    lib = library()
    links: dict[str, int] = {}
    root = os.open(features.cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for hook in hooks:
            program = _program(obj, hook.program)
            on_cgroup = isinstance(hook, Hook) and hook.cgroup
            link = lib.bpf_program__attach_cgroup(program, root) if on_cgroup else lib.bpf_program__attach(program)
            links[hook.program] = pointer(link, f"attach {hook.program}")
    except BaseException:
        _destroy(links)
        raise
    finally:
        os.close(root)
    return links


def _program(obj: int, name: str) -> int:
    return pointer(library().bpf_object__find_program_by_name(obj, name.encode()), name)


def _destroy(links: dict[str, int]) -> None:
    for link in links.values():
        library().bpf_link__destroy(link)


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


def _set_map(obj: int, name: str, value: ctypes.Structure) -> None:
    found = pointer(library().bpf_object__find_map_by_name(obj, name.encode()), f"map {name}")
    check(
        library().bpf_map__set_initial_value(found, ctypes.byref(value), ctypes.sizeof(value)),
        f"map {name}",
        "kernel-load",
    )


def _map_fd(obj: int, name: str) -> int:
    found = pointer(library().bpf_object__find_map_by_name(obj, name.encode()), f"map {name}")
    return check(library().bpf_map__fd(found), f"map {name}")


def _pin(loaded: LoadedObject, fds: dict[str, int], links: dict[str, int], epoch: int) -> None:
    lib = library()
    for folder in (loaded.pins, loaded.pins / "maps", loaded.pins / "links"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in PINNED_MAPS:
        if not (loaded.pins / "maps" / name).exists():
            obj_pin(fds[name], loaded.pins / "maps" / name)
    pin_links(loaded.pins, links, epoch)
    found = _program(loaded._obj, "list_tasks")
    link = pointer(lib.bpf_program__attach_iter(found, None), "iterator list_tasks")
    loaded._iterators["list_tasks"] = link
    obj_pin(lib.bpf_link__fd(link), loaded.pins / "tasks")
