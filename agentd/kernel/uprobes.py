"""The programs that judge library calls (bpf/calls.bpf.c): loaded when a policy first names one, attached file by file.

They share the maps of the enforcing set; what is their own is pinned in a folder `calls` beside it, so that with the
daemon dead calls are judged on. Each set has a number; the map `call_epoch` says which one is in charge.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Collection, Iterable
from typing import Final

from agentd.errors import EXIT_CANNOT_ENFORCE, AgentdError
from agentd.kernel import abi
from agentd.kernel.compat import open_object
from agentd.kernel.holding import HoldKeepers, share_maps
from agentd.kernel.libbpf import (
    BPF_ANY,
    KernelError,
    UprobeOpts,
    check,
    library,
    link_info,
    obj_get,
    obj_pin,
    pointer,
    prog_info,
)
from agentd.kernel.loader import LoadedObject
from agentd.kernel.maps import HashMap, Key, Value
from agentd.kernel.pins import remove_calls
from agentd.kernel.prepare import pointer_or_error, program_of, set_constants
from agentd.policy.ir import CallPoint
from agentd.resources import bpf_object

OBJECT: Final = "calls.bpf.o"
NEW_CODE: Final = 1024  # processes
# At each place, in this order; what the names of their links begin with. The kernel runs them in the other order.
PROGRAMS: Final = {"later-": "call_slept", "": "call_entered"}
# Why perf_event_open(2) is refused to root: the packaged service's sandbox (systemd/library-calls.conf).
SANDBOX: Final = "under systemd copy /usr/share/agentd/library-calls.conf to /etc/systemd/system/agentd.service.d/"


class CallPrograms:
    """One loaded calls.bpf.o. Nothing is judged before take_charge()."""

    def __init__(self, loaded: LoadedObject) -> None:
        """Raises AgentdError `kernel-load`."""
        path = bpf_object(OBJECT)
        if not path.exists():
            raise AgentdError("kernel-load", str(path), "not built", "run ./dev build", exit_code=EXIT_CANNOT_ENFORCE)
        self._pins = loaded.pins / "calls" if loaded.pinned else None
        self._links: dict[str, int] = {}
        self._keepers = HoldKeepers(loaded)
        self._obj = open_object(path)
        try:
            previous = self._previous_epoch()
            self.epoch = previous + 1
            constants = abi.Constants(epoch=self.epoch, arena_mask=loaded.arena_words - 1)
            set_constants(self._obj, constants)
            share_maps(self._obj, loaded)
            self._share_epoch(previous)
            pointer_or_error(library().bpf_object__load(self._obj), "the programs for library calls")
            self.fetchers = check(library().bpf_map__fd(self._map("fetchers")), "map fetchers")
            self.called = check(library().bpf_map__fd(self._map("called")), "map called")
            self._put("fetchers", 0, ctypes.c_uint32(library().bpf_program__fd(program_of(self._obj, "call_judged"))))
            self.known = self._hash("known_code", abi.Code, ctypes.c_uint32, abi.KNOWN_CODE)
            self.new = self._hash("new_code", ctypes.c_uint32, abi.Code, NEW_CODE)
            found = library().bpf_program__attach(program_of(self._obj, "code_mapped"))
            self._watching = {"code_mapped": pointer(found, "attach code_mapped")}
        except BaseException:
            self._keepers.close()
            library().bpf_object__close(self._obj)
            raise

    def describe(self, number: int, point: CallPoint) -> None:
        """Says what the function with this number is. Before its first probe."""
        word = point.word.encode()
        self._put("calls", number, abi.Call(language=point.language, len=len(word), word=word))

    def attach(self, name: str, file: str, place: int, number: int, *, counter: int = 0, size: int = 0) -> None:
        """Sets a probe at a function of an ELF file. Raises KernelError.

        name: of the pin. file: any path that leads to it now; the probe is the file's, wherever it is mapped. place: in
        bytes from its beginning; counter: the same, of what the kernel raises in each process that maps the file, for
        those places that are only come by then; size: of the function's code in bytes, 0 if that isn't known.
        libbpf would find the function too, but not one with several symbols (1.1: ambiguous), and it would read in this
        process what a workload has made.
        """
        cookie = number | min(size, 0xFFFFFFFF) << 32
        opts = UprobeOpts(sz=ctypes.sizeof(UprobeOpts), ref_ctr_offset=counter, bpf_cookie=cookie)
        for prefix, word in PROGRAMS.items():
            program, file_name = program_of(self._obj, word), os.fsencode(file)
            link = library().bpf_program__attach_uprobe_opts(program, -1, file_name, place, ctypes.byref(opts))
            if not link:
                failed = ctypes.get_errno() or errno.EINVAL
                hint = SANDBOX if failed in (errno.EPERM, errno.EACCES) else ""
                raise KernelError("kernel-load", f"probe at {place:#x} in {file}", failed, hint)
            self._links[prefix + name] = link
            if self._pins is not None and self._in_charge():
                obj_pin(library().bpf_link__fd(link), self._pins / "links" / f"{prefix}{name}-{self.epoch}")

    def take_charge(self) -> None:
        """From here on these probes judge, and no others."""
        if self._pins is not None:
            for folder in (self._pins, self._pins / "links"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("call_epoch", "fetchers", "calls", "called"):
                suffix = "" if name == "call_epoch" else f"-{self.epoch}"
                obj_pin(check(library().bpf_map__fd(self._map(name)), name), self._pins / f"{name}{suffix}")
            for name, link in {**self._keepers.links, **self._watching, **self._links}.items():
                obj_pin(library().bpf_link__fd(link), self._pins / "links" / f"{name}-{self.epoch}")
        self._put("call_epoch", 0, ctypes.c_uint32(self.epoch))
        if self._pins is not None:
            remove_calls(self._pins.parent, keep=f"-{self.epoch}")

    def looked_at(self, pid: int, files: Collection[tuple[int, int]]) -> None:
        """What stopped this process needn't stop another, if it is one of `files` (inode, or 0 where stat(2) has
        numbers of its own, and change time in ns). Without room all is forgotten, and looked at again.
        """
        key = ctypes.c_uint32(pid)
        code = self.new.get(key)
        if code is None:
            return
        if (code.inode, code.changed) in files or (0, code.changed) in files:
            try:
                self.known.put(code, ctypes.c_uint32(1))
            except KernelError:
                self.forget_known()
        self.new.delete(key)

    def broken(self, numbers: Iterable[int]) -> str:
        """What is not any more as it was set up, or nothing. numbers: of the functions that are judged.

        The kernel refuses to detach a link of these kinds, or to give it another program; what can go is its pin, with
        which the probe ends when this process does, and what the maps say. Raises KernelError.
        """
        if not self._in_charge():
            return "another set of probes is in charge"
        for name, link in {**self._keepers.links, **self._watching, **self._links}.items():
            info = link_info(library().bpf_link__fd(link))
            word = "code_mapped" if name in self._watching else PROGRAMS["later-" if name.startswith("later-") else ""]
            program = program_of(self._obj, word)
            if name not in self._keepers.links and info.prog_id != prog_info(library().bpf_program__fd(program)).id:
                return f"{name} is not attached as agentd left it"
            if self._pins is not None and not (self._pins / "links" / f"{name}-{self.epoch}").exists():
                return f"the pin of {name} is gone: it would end with this agentd"
        fd, found = library().bpf_map__fd(self._map("fetchers")), ctypes.c_uint32()
        for number in (0, *numbers):
            if library().bpf_map_lookup_elem(fd, ctypes.byref(ctypes.c_uint32(number)), ctypes.byref(found)):
                return f"nothing is there to read what function {number} is told: calls of it are denied"
        return ""

    def forget_known(self) -> None:
        """Makes every file stop the next process that maps it."""
        for code in list(self.known.keys()):
            self.known.delete(code)

    def attached(self) -> Iterable[str]:
        """The names of the probes."""
        return self._links.keys()

    def detach(self, names: Iterable[str]) -> None:
        """Takes probes away, for instance of files that nobody maps any more."""
        for name in list(names):
            self._destroy(self._links.pop(name))
            if self._pins is not None:
                (self._pins / "links" / f"{name}-{self.epoch}").unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of everything that isn't pinned."""
        for links in (self._links, self._watching):
            for link in links.values():
                self._destroy(link)
            links.clear()
        self._keepers.close()
        library().bpf_object__close(self._obj)

    def _destroy(self, link: int) -> None:
        """Lets go of a link. Whoever closes the last descriptor of a probe's waits until no program of the whole host
        sleeps (perf_event_detach_bpf_prog: synchronize_rcu_tasks_trace), and a workload can make one sleep for as long
        as it likes. Behind the last pin the kernel waits by itself.
        """
        last = self._pins.parent / "closing" if self._pins is not None else None
        if last is not None:
            last.unlink(missing_ok=True)
            with contextlib.suppress(KernelError):
                obj_pin(library().bpf_link__fd(link), last)
        library().bpf_link__destroy(link)
        if last is not None:
            last.unlink(missing_ok=True)

    def _in_charge(self) -> bool:
        key, value = ctypes.c_uint32(0), ctypes.c_uint32(0)
        fd = library().bpf_map__fd(self._map("call_epoch"))
        check(library().bpf_map_lookup_elem(fd, ctypes.byref(key), ctypes.byref(value)), "map call_epoch")
        return value.value == self.epoch

    def _hash(self, name: str, key: type[Key], value: type[Value], capacity: int) -> HashMap[Key, Value]:
        return HashMap(check(library().bpf_map__fd(self._map(name)), f"map {name}"), key, value, capacity, name)

    def _map(self, name: str) -> int:
        return pointer(library().bpf_object__find_map_by_name(self._obj, name.encode()), f"map {name}")

    def _put(self, name: str, key: int, value: ctypes.Structure | ctypes.c_uint32) -> None:
        number = ctypes.c_uint32(key)
        fd = check(library().bpf_map__fd(self._map(name)), f"map {name}")
        check(library().bpf_map_update_elem(fd, ctypes.byref(number), ctypes.byref(value), BPF_ANY), f"map {name}")

    def _previous_epoch(self) -> int:
        """The number of the set that is pinned; 0: none is."""
        if self._pins is None or not (self._pins / "call_epoch").exists():
            return 0
        fd = obj_get(self._pins / "call_epoch")
        try:
            key, value = ctypes.c_uint32(0), ctypes.c_uint32(0)
            check(library().bpf_map_lookup_elem(fd, ctypes.byref(key), ctypes.byref(value)), "map call_epoch")
            return value.value
        finally:
            os.close(fd)

    def _share_epoch(self, previous: int) -> None:
        if previous and self._pins is not None:
            fd = obj_get(self._pins / "call_epoch")
            try:
                check(library().bpf_map__reuse_fd(self._map("call_epoch"), fd), "share map call_epoch", "kernel-load")
            finally:
                os.close(fd)
