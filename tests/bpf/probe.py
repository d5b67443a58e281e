"""The kernel's look-up code, run on objects that a test gives: bpf/probe.bpf.c, loaded and attached to nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_char, c_uint8, c_uint32, c_uint64
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.kernel import abi, features
from agentd.kernel.compat import open_object
from agentd.kernel.hosts import HostNames
from agentd.kernel.libbpf import TestRunOpts, check, library, pointer
from agentd.kernel.loader import LoadedObject, _map_fd
from agentd.kernel.maps import MappedArray
from agentd.kernel.pins import PINNED_MAPS
from agentd.kernel.prepare import WORD, pointer_or_error, program_of, set_map
from agentd.kernel.tables import PolicyTables
from agentd.model import Action, Decision, Family, Mode, Op, Risk
from agentd.policy.resolved import Outcome
from agentd.policy.tables import AgentTables
from agentd.resources import bpf_object

PATH_MAX: Final = 4096
REQUESTS: Final = 16
WANTED: Final = ("probe_verdict", "probe_message", "probe_leaf")
KEPT_NAME: Final = 64  # bytes: LEAF_WORDS words
U32: Final = 0xFFFFFFFF
LATER: Final = 2  # CALL_LATER of bpf/text.bpf.c


class Request(ctypes.Structure):
    """struct probe_request of bpf/probe.bpf.c."""

    _fields_ = [
        ("agent", c_uint32),
        ("op", c_uint32),
        ("len", c_uint32),
        ("args_len", c_uint32),
        ("args", c_uint64),
        ("netns", c_uint64),
        ("stream", c_uint64),
        ("language", c_uint32),
        ("flags", c_uint32),
        ("outcome", c_uint32),
        ("generation", c_uint32),
        ("rule", c_uint32),
        ("toolop", c_uint32),
        ("timeout", c_uint32),
        ("decision", c_uint8),
        ("action", c_uint8),
        ("risk", c_uint8),
        ("unresolved", c_uint8),
        ("object", c_char * PATH_MAX),
    ]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the kernel said: the outcome as its words tell it, the number it has in the tables, and whose tables."""

    outcome: Outcome
    number: int
    generation: int
    unresolved: bool


class Runner:
    """One request of the probe, for one thread."""

    def __init__(self, request: Request, number: int, programs: Sequence[int]) -> None:
        """programs: the descriptors of WANTED."""
        self._request = request
        self._program, self._messages, self._leaf = programs
        self._object = ctypes.addressof(request) + Request.object.offset
        self._context = (c_uint64 * 1)(number)
        self._opts = TestRunOpts(
            sz=ctypes.sizeof(TestRunOpts),
            ctx_in=ctypes.addressof(self._context),
            ctx_size_in=ctypes.sizeof(self._context),
        )
        self._argv: Sequence[bytes] = ()
        self._block: ctypes.Array[c_char] = ctypes.create_string_buffer(0)

    def learn(self, agent: int, message: bytes, netns: int = 1) -> int | None:
        """Gives the kernel an answer of a resolver, to a question that `agent` asked; how many addresses it found.

        -1: it teaches nothing; None: what it answers is no question that could be asked.
        """
        request = self._request
        request.agent = agent
        request.len = len(message)
        request.netns = netns
        ctypes.memmove(self._object, message, min(len(message), PATH_MAX))
        check(library().bpf_prog_test_run_opts(self._messages, ctypes.byref(self._opts)), "probe")
        assert self._opts.retval == 0, "the probe had no work buffer"
        return ctypes.c_int32(request.outcome).value if request.rule else None

    def differs(self, kept: bytes, name: bytes, behind: bytes) -> bool:
        """Is `name`, with that behind it in memory, another one than is kept?"""
        data = kept.ljust(KEPT_NAME, b"\0") + name + behind
        self._request.len = len(name)
        ctypes.memmove(self._object, data, len(data))
        check(library().bpf_prog_test_run_opts(self._leaf, ctypes.byref(self._opts)), "probe")
        assert self._opts.retval == 0, "the kernel loads nothing from addresses"
        return bool(self._request.outcome)

    def ask(self, agent: int, op: Op, obj: bytes | None, argv: Sequence[bytes] = (), *, netns: int = 0) -> Answer:
        """The kernel's answer for a path, a word or a host key; None: an object that could not be resolved.
        netns: in which the names that the kernel has learned count; 0: none.
        """
        request = self._request
        request.netns = netns
        data = obj or b""
        if data and op.family is Family.HOST:
            data = data[:-1]  # the kernel finds the class of the name itself
        if argv is not self._argv:
            block = b"".join(argument + b"\0" for argument in argv)
            self._block = ctypes.create_string_buffer(block, max(len(block), 1))
            self._argv = argv
            request.args = ctypes.addressof(self._block)
            request.args_len = len(block)
        request.agent = agent
        request.op = op
        request.language = request.flags = 0
        request.len = len(data)
        ctypes.memmove(self._object, data, min(len(data), PATH_MAX))
        return self.again()

    def call(
        self, agent: int, word: bytes, text: bytes, language: int = 0, *, flags: int = 0, stream: int = 0
    ) -> Answer | None:
        """The kernel's answer for a library call that is told `text`; None: no rule speaks of it. stream: see
        struct agentd_called. `later` says afterwards whether it is left to a program that may sleep.
        """
        request = self._request
        self._block = ctypes.create_string_buffer(text, len(text) + 1)
        self._argv = ()
        request.args = ctypes.addressof(self._block)
        request.args_len = len(text)
        request.agent, request.op, request.len = agent, Op.CALL, len(word)
        request.language, request.flags, request.netns, request.stream = language, flags, 0, stream
        ctypes.memmove(self._object, word, len(word))
        answer = self.again()
        self.later = request.netns == LATER
        return answer if request.netns else None

    def again(self) -> Answer:
        """The answer to the same question once more."""
        request = self._request
        check(library().bpf_prog_test_run_opts(self._program, ctypes.byref(self._opts)), "probe")
        assert self._opts.retval == 0, "the probe had no work buffer"
        rule = request.rule - (1 << 32) if request.rule > U32 - 16 else request.rule
        outcome = Outcome(
            Decision(request.decision),
            Action(request.action),
            Risk(request.risk),
            rule,
            request.toolop,
            request.timeout,
        )
        return Answer(outcome, request.outcome, request.generation, bool(request.unresolved))


class Probe:
    """The loaded object, its policy tables, and a runner for each thread."""

    def __init__(self, loaded: LoadedObject, requests: MappedArray, programs: Sequence[int]) -> None:
        self.loaded = loaded
        self.names = HostNames(loaded)
        self.tables = PolicyTables(loaded)
        size = ctypes.sizeof(Request)
        self.runners = [Runner(requests.view(Request, i * size), i, programs) for i in range(REQUESTS)]

    def install(self, tables: AgentTables, *, name: str = "bot", mode: Mode = Mode.ENFORCE) -> int:
        """Puts the tables in force for agent `name`; returns the agent's number."""
        return self.tables.install(name, tables, mode=mode, strict=False).agent


@contextmanager
def loaded_probe(arena_words: int) -> Iterator[Probe]:
    """The probe with room for `arena_words` words of tables (a power of two)."""
    features.require_root()
    lib = library()
    lib.bpf_object__next_program.restype = ctypes.c_void_p
    lib.bpf_object__next_program.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    lib.bpf_program__name.restype = ctypes.c_char_p
    lib.bpf_program__name.argtypes = [ctypes.c_void_p]
    obj = open_object(bpf_object("probe.bpf.o"))
    loaded: LoadedObject | None = None
    try:
        program = lib.bpf_object__next_program(obj, None)
        while program:  # the hooks are not wanted here, and verifying them takes seconds
            lib.bpf_program__set_autoload(program, lib.bpf_program__name(program).decode() in WANTED)
            program = lib.bpf_object__next_program(obj, program)
        set_map(obj, ".rodata.agentd", abi.Constants(epoch=1, arena_mask=arena_words - 1))
        arena = pointer(lib.bpf_object__find_map_by_name(obj, b"arena"), "map arena")
        check(lib.bpf_map__set_value_size(arena, arena_words * WORD), "size of the arena")
        pointer_or_error(lib.bpf_object__load(obj), "probe.bpf.o")
        fds = {name: _map_fd(obj, name) for name in (*PINNED_MAPS, ".data.request")}
        loaded = LoadedObject(obj, fds, {}, {}, Path("/nowhere"))
        requests = MappedArray(_map_fd(obj, "probe_requests"), REQUESTS * ctypes.sizeof(Request))
        yield Probe(loaded, requests, [lib.bpf_program__fd(program_of(obj, name)) for name in WANTED])
    finally:
        lib.bpf_object__close(obj)
