"""Loads the object as agentd does, and says how many instructions the verifier processed for each program.

When the kernel refuses it, every program is tried alone, so that the report says which are refused and why.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import POINTER, c_char, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd.errors import AgentdError
from agentd.kernel import loader, lsm, prepare, shared
from agentd.kernel.compat import open_object
from agentd.kernel.libbpf import library, prog_info
from agentd.model import Point
from agentd.resources import bpf_object

LOG_BYTES: Final = 64 << 20  # Linux before 6.4 keeps the beginning of a log and gives up when it is full
LOG_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class Verified:
    """One program. instructions: None if the kernel refused it; said: the end of the verifier's log then."""

    program: str
    instructions: int | None
    said: str = ""


_messages: list[str] = []


def _format(level: int, text: bytes | None, args: int | None) -> int:
    """libbpf's warnings, formatted: on x86-64 a va_list is passed as a pointer, which vsnprintf(3) takes."""
    if level == 0 and text:
        line = ctypes.create_string_buffer(1024)
        ctypes.CDLL(None).vsnprintf(line, c_size_t(len(line)), c_char_p(text), c_void_p(args))
        _messages.append(line.value.decode("utf-8", "replace").strip())
    return 0


_FORMAT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)(_format)


def _library() -> Any:
    lib = library()
    lib.bpf_object__next_program.restype = c_void_p
    lib.bpf_object__next_program.argtypes = [c_void_p, c_void_p]
    lib.bpf_program__name.restype = c_char_p
    lib.bpf_program__name.argtypes = [c_void_p]
    lib.libbpf_set_print(_FORMAT)
    lib.bpf_program__set_log_buf.restype = c_int
    lib.bpf_program__set_log_buf.argtypes = [c_void_p, POINTER(c_char), c_size_t]
    return lib


def _programs(obj: int) -> Iterator[tuple[int, str]]:
    lib = _library()
    program = lib.bpf_object__next_program(obj, None)
    while program:
        yield program, lib.bpf_program__name(program).decode()
        program = lib.bpf_object__next_program(obj, program)


def verified() -> list[Verified]:
    """Every program of the object."""
    try:
        loaded = loader.load(Path("/nowhere"), arena_words=prepare.MIN_ARENA_WORDS, pin=False)
    except AgentdError as error:
        alone = [_alone(name) for name in _names()]
        return [*alone, Verified("all together", None, str(error))]
    try:
        fds = [(name, library().bpf_program__fd(program)) for program, name in _programs(loaded._obj)]
        return [Verified(name, prog_info(fd).verified_insns) for name, fd in fds if fd >= 0]
    finally:
        loaded.close()


def _names() -> list[str]:
    obj = open_object(bpf_object(prepare.OBJECT))
    try:
        return [name for _, name in _programs(obj)]
    finally:
        library().bpf_object__close(obj)


def _alone(wanted: str) -> Verified:
    lib = _library()
    _messages.clear()
    obj = open_object(bpf_object(prepare.OBJECT))
    log = ctypes.create_string_buffer(LOG_BYTES)
    try:
        only = 0
        for program, name in _programs(obj):
            lib.bpf_program__set_autoload(program, name == wanted)
            only = program if name == wanted else only
        if wanted == shared.PROGRAM and lsm.point() is not Point.NONE:
            shared.choose(obj, lsm.point())
        lib.bpf_program__set_log_buf(only, log, LOG_BYTES)
        if lib.bpf_object__load(obj) < 0:
            number = ctypes.get_errno()
            said = log.value.decode("utf-8", "replace").splitlines() or _messages
            return Verified(wanted, None, "\n".join([*said[-LOG_LINES:], os.strerror(number)]))
        return Verified(wanted, prog_info(lib.bpf_program__fd(only)).verified_insns)
    finally:
        lib.bpf_object__close(obj)
