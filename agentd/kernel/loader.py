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
import os
from collections.abc import Sequence
from pathlib import Path

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi, features, shared
from agentd.kernel.hooks import Hook, LsmHook, Need, prevented, wanted
from agentd.kernel.libbpf import (
    KernelError,
    TestRunOpts,
    check,
    give_memory_back,
    library,
    link_info,
    map_info,
    obj_pin,
    pointer,
    prog_info,
    wait_for_programs,
)
from agentd.kernel.maps import HashMap, MappedArray, PerCpuCounters
from agentd.kernel.pins import (
    PINNED_MAPS,
    drop_stale_links,
    is_pinned,
    pin_links,
    shared_pin,
    unpin_links,
)
from agentd.kernel.pins import pinned_tasks as pinned_tasks
from agentd.kernel.pins import read_tasks as read_tasks
from agentd.kernel.pins import remove_pins as remove_pins
from agentd.kernel.prepare import OBJECT, WORD, Preparation, Prepared, prepare, program_of
from agentd.model import Op
from agentd.resources import bpf_object


class LoadedObject:
    """The programs in the kernel, and views of the maps."""

    def __init__(
        self,
        obj: int,
        fds: dict[str, int],
        hooks: tuple[Hook | LsmHook, ...],
        links: dict[str, int],
        pins: Path,
        sharing: dict[str, int] | None = None,
    ) -> None:
        self._obj = obj
        self._hooks = hooks
        self._links = links
        self._sharing = sharing or {}  # how the hooks have what they share, as long as the programs are loaded
        self._iterators: dict[str, int] = {}
        self.programs = {hook.program: library().bpf_program__fd(program_of(obj, hook.program)) for hook in hooks}
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
        self.hits_map = MappedArray(fds["hits"], ctypes.sizeof(abi.Hit) * abi.HITS)
        self.grants = HashMap(fds["grants"], abi.GrantKey, abi.Grant, map_info(fds["grants"]).max_entries, "grants")
        self.answers = HashMap(
            fds["answers"], ctypes.c_uint64, ctypes.c_uint32, map_info(fds["answers"]).max_entries, "answers"
        )
        self.doomed = HashMap(
            fds["doomed"], ctypes.c_uint32, ctypes.c_uint32, map_info(fds["doomed"]).max_entries, "doomed"
        )
        self.stats = PerCpuCounters(fds["stats"], abi.STAT_COUNT)
        self._needs = {need for need in Need if need.witness in links}

    def program_seconds(self) -> dict[str, float]:
        """Run time of each program in seconds; zeros unless kernel.bpf_stats_enabled is on."""
        return {name: prog_info(fd).run_time_ns / 1e9 for name, fd in self.programs.items()}

    def skipped(self) -> dict[str, int]:
        """How often the kernel has passed each program by since it was loaded; see recursion.py."""
        return {name: int(prog_info(fd).recursion_misses) for name, fd in self.programs.items()}

    @property
    def prevented(self) -> frozenset[Op]:
        """The operations that LSM hooks judge on this host, before their effect."""
        return prevented({hook.program for hook in self._hooks})

    def links(self) -> set[str]:
        """The programs that are attached."""
        return set(self._links)

    @property
    def told(self) -> bool:
        """Did the kernel tell, when the programs were loaded, where it keeps what no type describes (symbols.py)? They
        do without, at a price. Nothing is asked where there are no LSM hooks.
        """
        fd, key, value = _map_fd(self._obj, ".rodata.agentd"), ctypes.c_uint32(0), abi.Constants()
        check(library().bpf_map_lookup_elem(fd, ctypes.byref(key), ctypes.byref(value)), "constants")
        return bool(value.memory and value.direct_map) or not self.prevented

    def broken(self) -> set[str]:
        """The programs that were attached and are not any more as they were. A cgroup's link can be detached or given
        another program by whoever may use bpf(); the kernel refuses both for the other kinds. A pin that is gone would
        let enforcement end with this process. Raises KernelError.
        """
        on_cgroup = {hook.program for hook in self._hooks if isinstance(hook, Hook) and hook.cgroup}
        lost = set()
        for name, link in self._links.items():
            info = link_info(library().bpf_link__fd(link))
            pin = self.pins / "links" / f"{name}-{self.control.epoch}"
            detached = name in on_cgroup and not info.cgroup_id
            if detached or info.prog_id != prog_info(self.programs[name]).id or (self.pinned and not pin.exists()):
                lost.add(name)
            if self.pinned and name in self._sharing and not shared_pin(self.pins, name, self.control.epoch).exists():
                lost.add(name)
        return lost

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
            self._links = self._attach(wanted(self._hooks, self._needs))

    def watch_for(self, need: Need, there: bool) -> None:
        """From here on there is this need, or there isn't: attaches or detaches the programs that are there for it, now
        or with the other programs.

        Raises KernelError; nothing has changed then.
        """
        if there == (need in self._needs):
            return
        needs = self._needs ^ {need}
        if self._links:
            due = wanted(self._hooks, needs)
            self._links |= self._attach([hook for hook in due if hook.program not in self._links])
            going = {name: self._links.pop(name) for name in self._links.keys() - {hook.program for hook in due}}
            if self.pinned:
                unpin_links(self.pins, self.control.epoch, going)
            _destroy(going)
        self._needs = needs

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
            unpin_links(self.pins, self.control.epoch, self._links)
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

    def iterate(self, program: str) -> bytes:
        """Everything that an iterator program writes in one run."""
        fd = self.iterator(program)
        chunks = []
        try:
            while chunk := os.read(fd, 1 << 16):
                chunks.append(chunk)
        finally:
            os.close(fd)
        return b"".join(chunks)

    def next_hold(self) -> int:
        """The number of a new hold: the hooks give theirs in the same way. Raises KernelError."""
        number = ctypes.c_uint64(0)
        opts = TestRunOpts(sz=ctypes.sizeof(TestRunOpts), ctx_in=ctypes.addressof(number), ctx_size_in=8)
        program = library().bpf_program__fd(program_of(self._obj, "number_hold"))
        check(library().bpf_prog_test_run_opts(program, ctypes.byref(opts)), "program number_hold")
        return int(number.value)

    def close(self) -> None:
        """Lets go of everything that isn't pinned."""
        links = bool(self._links)
        for link in (*self._iterators.values(), *self._links.values()):
            library().bpf_link__destroy(link)
        self._iterators.clear()
        self._links.clear()
        if links and self._sharing:
            wait_for_programs()  # a hook without what it shares denies
        shared.close(self._sharing)
        library().bpf_object__close(self._obj)

    def release(self) -> None:
        """Ends enforcement: removes the pins and detaches the programs."""
        remove_pins(self.pins)
        self.close()


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
    features.require_host()
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
        loaded = _attach(prepared or prepare(path, pins, arena_words, pin), pins, pin)
    except KernelError as exc:
        exc.exit_code = EXIT_CANNOT_ENFORCE
        raise
    except OSError as exc:
        why = (exc.strerror or str(exc)).lower()
        hint = "give agentd a bpf file system that it can write"
        raise AgentdError("kernel-load", str(exc.filename or pins), why, hint, exit_code=EXIT_CANNOT_ENFORCE) from exc
    give_memory_back()
    return loaded


def _attach(prepared: Prepared, pins: Path, pin: bool) -> LoadedObject:
    lib = library()
    obj = prepared.obj
    links: dict[str, int] = {}
    sharing: dict[str, int] = {}
    try:
        fds = {name: _map_fd(obj, name) for name in (*PINNED_MAPS, ".data.request")}
        # What an agentd before this one had need of: until the policy is in force no answer must go unread, say.
        needs = {need for need in Need if pin and need.witness and is_pinned(pins, need.witness)}
        sharing = shared.attach(obj, prepared.hooks)
        links = _attach_hooks(obj, wanted(prepared.hooks, needs))
        loaded = LoadedObject(obj, fds, prepared.hooks, links, pins, sharing)
        if not prepared.adopted:
            loaded.control.hash_seed[:] = [int.from_bytes(os.urandom(8), "little") for _ in range(2)]
            loaded.control.abi = abi.ABI_VERSION
        if pin:
            _pin(loaded, fds, links, prepared.epoch)
            loaded.pinned = True
        loaded.control.point = prepared.point
        loaded.control.prevented = sum(1 << op for op in loaded.prevented)
        loaded.control.daemon = os.getpid()
        loaded.control.tagging = 0  # left by an agentd that died while it tagged
        loaded.control.epoch = prepared.epoch  # in charge from here on
    except BaseException:
        if pin:
            unpin_links(pins, prepared.epoch)
        _destroy(links)
        shared.close(sharing)
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
            program = program_of(obj, hook.program)
            on_cgroup = isinstance(hook, Hook) and hook.cgroup
            link = lib.bpf_program__attach_cgroup(program, root) if on_cgroup else lib.bpf_program__attach(program)
            links[hook.program] = pointer(link, f"attach {hook.program}")
    except BaseException:
        _destroy(links)
        raise
    finally:
        os.close(root)
    return links


def _destroy(links: dict[str, int]) -> None:
    for link in links.values():
        library().bpf_link__destroy(link)


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
    shared.pin(loaded.pins, loaded._sharing, epoch)
    pin_links(loaded.pins, links, epoch)
    found = program_of(loaded._obj, "list_tasks")
    link = pointer(lib.bpf_program__attach_iter(found, None), "iterator list_tasks")
    loaded._iterators["list_tasks"] = link
    obj_pin(lib.bpf_link__fd(link), loaded.pins / "tasks")
