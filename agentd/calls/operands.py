"""Where an argument lies at a probe: in a register, in memory, or it is a number.

A function's arguments lie where the x86-64 calling convention puts them (System V ABI, 3.2.3). Where those of a USDT
probe lie stands in the file, as the compiler has left them: `8@%rbx -4@-20(%rbp) 4@$7`, each a size (negative: signed)
and an operand in the assembler's notation (systemtap's UserSpaceProbeImplementation). The file may be a workload's:
what isn't understood in full is refused.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

PARAMETERS: Final = ("di", "si", "dx", "cx", "r8", "r9")
_LETTERS: Final = ("ax", "bx", "cx", "dx")
_POINTERS: Final = ("si", "di", "bp", "sp")
_NUMBERED: Final = tuple(f"r{n}" for n in range(8, 16))
# What assemblers call a register or its low part -> struct pt_regs' name.
_REGISTERS: Final = {
    **{prefix + name: name for name in (*_LETTERS, *_POINTERS) for prefix in ("r", "e", "")},
    **{name[0] + "l": name for name in _LETTERS},
    **{name + "l": name for name in _POINTERS},
    **{name + suffix: name for name in _NUMBERED for suffix in ("", "d", "w", "b")},
}
_ARGUMENT: Final = re.compile(
    r"(?P<size>-?[1248])@(?:"
    r"\$(?P<number>-?(?:0x[0-9a-f]{1,16}|[0-9]{1,19}))"
    r"|%(?P<register>[a-z0-9]{2,4})"
    r"|(?P<offset>-?[0-9]{1,10})?\(%(?P<base>[a-z0-9]{2,4})(?:,%(?P<index>[a-z0-9]{2,4})(?:,(?P<scale>[1248]))?)?\)"
    r")"
)


class Operand(NamedTuple):
    """One argument. size: in bytes. register: in which it lies, or (memory) what its address is counted from; empty: it
    is the number `offset`. added, scale: another register, and how often it is added to the address.
    """

    register: str
    size: int = 8
    signed: bool = False
    memory: bool = False
    offset: int = 0
    added: str = ""
    scale: int = 1


def parameter(number: int, *, signed: bool = False) -> Operand:
    """An argument of a function, counted from 1. signed: an int, else 8 bytes."""
    return Operand(PARAMETERS[number - 1], 4 if signed else 8, signed)


def operands(text: str) -> tuple[Operand, ...]:
    """What a USDT probe is told. Raises ValueError."""
    return tuple(_operand(word) for word in text.split())


def _operand(word: str) -> Operand:
    match = _ARGUMENT.fullmatch(word)
    if match is None:
        raise ValueError(f"an argument of the probe lies where no program can look: {word[:40]!r}")
    size = int(match["size"])
    if match["number"] is not None:
        return Operand("", abs(size), size < 0, offset=_within(int(match["number"], 0), 64, word))
    if match["register"] is not None:
        return Operand(_register(match["register"], word), abs(size), size < 0)
    offset = _within(int(match["offset"] or 0), 32, word)
    added = _register(match["index"], word) if match["index"] else ""
    base = _register(match["base"], word)
    return Operand(base, abs(size), size < 0, True, offset, added, int(match["scale"] or 1))


def _register(name: str, word: str) -> str:
    if name not in _REGISTERS:
        raise ValueError(f"an argument of the probe lies where no program can look: {word[:40]!r}")
    return _REGISTERS[name]


def _within(number: int, bits: int, word: str) -> int:
    if not -(1 << (bits - 1)) <= number < 1 << bits:
        raise ValueError(f"an argument of the probe is no number: {word[:40]!r}")
    return number
