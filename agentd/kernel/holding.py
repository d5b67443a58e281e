"""What keeps a held process held whose operation is not issued again.

These are programs of the main object that hosts with LSM hooks don't load, because there every hold comes before the
effect. A library call is no system call, so they are wanted for it; and where the kernel has no work for a task to do
on its way to user mode (before Linux 6.18), two more, which need trampolines.
"""

from __future__ import annotations

from typing import Final

from agentd.kernel import abi, recursion
from agentd.kernel.compat import has_task_work, has_tracepoint, open_object
from agentd.kernel.hooks import HOOKS
from agentd.kernel.libbpf import check, library, pointer
from agentd.kernel.loader import LoadedObject
from agentd.kernel.pins import PINNED_MAPS
from agentd.kernel.prepare import OBJECT, pointer_or_error, program_of, set_constants
from agentd.model import Point
from agentd.resources import bpf_object

PROGRAMS: Final = ("signal_generated", "task_resumed", "syscall_returned")
BARS: Final = ("probe_passed", "signals_taken")
_SHARED: Final = (*PINNED_MAPS, "keepers")  # the latter: work of a held task, which any of the sets may give it


def kept(loaded: LoadedObject) -> bool:
    """Can a process be kept stopped that somebody sends SIGCONT? (bpf/held.bpf.c.)"""
    return has_tracepoint("sched_exit_tp") or _has_bars(loaded)


def _has_bars(loaded: LoadedObject) -> bool:
    """Are BARS wanted, and never left out? Where LSM hooks are loaded there are trampolines."""
    return bool(loaded.prevented) and not has_task_work() and not recursion.open_to_all(Point.FMOD_RET)


class HoldKeepers:
    """The main object once more, with nothing in it but PROGRAMS and BARS. Empty where all is loaded already."""

    def __init__(self, loaded: LoadedObject) -> None:
        """Raises KernelError."""
        self.links: dict[str, int] = {}
        self._obj = 0
        wanted = [
            hook.program
            for hook in HOOKS
            if hook.program in PROGRAMS and (not hook.newer or has_tracepoint(hook.newer))
        ]
        wanted += BARS if _has_bars(loaded) else ()
        if all(program in loaded.programs for program in wanted):
            return
        self._obj = open_object(bpf_object(OBJECT))
        try:
            constants = abi.Constants(epoch=loaded.control.epoch, arena_mask=loaded.arena_words - 1)
            set_constants(self._obj, constants)
            program = library().bpf_object__next_program(self._obj, None)
            while program:
                name = library().bpf_program__name(program).decode()
                check(library().bpf_program__set_autoload(program, name in wanted), name)
                program = library().bpf_object__next_program(self._obj, program)
            share_maps(self._obj, loaded)
            pointer_or_error(library().bpf_object__load(self._obj), "what keeps a call held")
            for name in wanted:
                found = library().bpf_program__attach(program_of(self._obj, name))
                self.links[name] = pointer(found, f"attach {name}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of everything that isn't pinned."""
        for link in self.links.values():
            library().bpf_link__destroy(link)
        self.links.clear()
        if self._obj:
            library().bpf_object__close(self._obj)
            self._obj = 0


def share_maps(obj: int, loaded: LoadedObject) -> None:
    """Makes an object that isn't loaded yet use the maps of the enforcing set. Raises KernelError."""
    for name in _SHARED:
        found = library().bpf_object__find_map_by_name(obj, name.encode())
        if found:
            fd = loaded.fds[name] if name in loaded.fds else _map_fd(loaded, name)
            check(library().bpf_map__reuse_fd(found, fd), f"share map {name}", "kernel-load")


def _map_fd(loaded: LoadedObject, name: str) -> int:
    found = pointer(library().bpf_object__find_map_by_name(loaded._obj, name.encode()), f"map {name}")
    return check(library().bpf_map__fd(found), f"map {name}")
