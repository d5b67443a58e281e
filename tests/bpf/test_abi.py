"""bpf/abi.h and its mirrors in Python say the same: every structure, every enumerator, every constant.

The C side is read from the compiler (BTF for types, a program for the constants), not from the text, so that what is
compared is what the kernel programs really use.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.kernel import abi, foreign
from agentd.model import HOST_OPS, PATH_OPS, Action, Decision, Endpoint, Guarantee, Op, Point, Risk
from agentd.policy import calltables, resolved, tables
from agentd.policy.hosts import host_key
from agentd.policy.sql import Sql
from agentd.resources import bpf_object

BPF: Final = Path(__file__).resolve().parents[2] / "bpf"
HEADER: Final = BPF / "abi.h"
U32: Final = 0xFFFFFFFF

Shape = tuple[Any, ...]
"""("int", bytes, signed), ("char",), ("array", length, shape) or ("struct", C name)."""
Layout = dict[str, tuple[int, int, Shape]]
"""Member -> (offset, size, shape), sizes in bytes."""

# Enumerator prefix -> (mirror, what its names begin with).
ENUMS: Final[Mapping[str, tuple[str, Mapping[str, int]]]] = {
    "agentd_op": ("AGENTD_OP_", {op.name: op for op in Op} | {"COUNT": len(Op)}),
    "agentd_decision": ("AGENTD_", {decision.name: decision for decision in Decision}),
    "agentd_action": ("AGENTD_ACTION_", {action.name: action for action in Action}),
    "agentd_point": ("AGENTD_POINT_", {point.name: point for point in Point}),
    "agentd_guarantee": (
        "AGENTD_",
        {f"GUARANTEE_{item.name}" if item is Guarantee.NONE else item.name: item for item in Guarantee},
    ),
    "agentd_event_type": ("AGENTD_EVENT_", {n[6:]: v for n, v in vars(abi).items() if n.startswith("EVENT_")}),
    "agentd_end": ("AGENTD_END_", {n[4:]: v for n, v in vars(abi).items() if n.startswith("END_")}),
    "agentd_sql": ("AGENTD_SQL_", {one.name: one for one in Sql}),
    "agentd_stat": (
        "AGENTD_STAT_",
        {n[5:]: v for n, v in vars(abi).items() if n.startswith("STAT_") and n != "STAT_BUCKETS"},
    ),
}

STRUCTURES: Final = {**abi.STRUCTURES, **foreign.STRUCTURES}

CONSTANTS: Final[Mapping[str, int]] = {
    "AGENTD_ABI_VERSION": abi.ABI_VERSION,
    "AGENTD_PATH_OPS": len(PATH_OPS),
    "AGENTD_HOST_OPS": len(HOST_OPS),
    "AGENTD_STATE_WORDS": tables.STATE_WORDS,
    "AGENTD_COMB_WORDS": tables.COMB_WORDS,
    "AGENTD_CLASS_WORDS": 256 // 4,
    "AGENTD_OUTCOME_WORDS": tables.OUTCOME_WORDS,
    "AGENTD_ARG_WORDS": calltables.ARG_WORDS,
    "AGENTD_LIST_MAX": tables.MAX_LIST,
    "AGENTD_TEXT_WORDS": calltables.TEXT_WORDS,
    "AGENTD_TEXTS_MAX": calltables.MAX_TEXTS,
    "AGENTD_NOT_ASKED": calltables.NOT_ASKED,
    "AGENTD_MAX_CALLS": abi.MAX_CALLS,
    "AGENTD_KNOWN_CODE": abi.KNOWN_CODE,
    "AGENTD_CALL_WORD": abi.CALL_WORD,
    "AGENTD_CALLED_STRING": abi.CALLED_STRING,
    "AGENTD_CALLED_LIMIT": abi.CALLED_LIMIT,
    "AGENTD_CALLED_ENDS": abi.CALLED_ENDS,
    "AGENTD_CALLED_LATER": abi.CALLED_LATER,
    "AGENTD_EVENT_SQL_SHIFT": abi.SQL_SHIFT,
    "AGENTD_NO_GROUP": calltables.NO_GROUP,
    "AGENTD_BY_OP": tables.BY_OP,
    "AGENTD_RULE_DEFAULT": resolved.RULE_DEFAULT & U32,
    "AGENTD_RULE_GUARD": abi.RULE_GUARD,
    "AGENTD_RULE_ABOVE": abi.RULE_ABOVE,
    "AGENTD_RULE_UNRESOLVED": resolved.RULE_UNRESOLVED & U32,
    "AGENTD_HOST_NAME_MAX": abi.HOST_NAME_MAX,
    "AGENTD_HOST_NAME_ROOM": abi.HOST_NAME_ROOM,
    "AGENTD_NAME_SLOTS": abi.NAME_SLOTS,
    "AGENTD_HOST_KEY_MAX": len(host_key(Endpoint(bytes(16), 0))),
    "AGENTD_MAX_AGENTS": abi.MAX_AGENTS,
    "AGENTD_HITS": abi.HITS,
    "AGENTD_CHECK_PATH": abi.CHECK_PATH,
    **{f"AGENTD_{name}": value for name, value in vars(abi).items() if name.startswith("CARELESS_")},
    "AGENTD_NAME_MAX": abi.NAME_MAX,
    "AGENTD_AGENT_USED": abi.AGENT_USED,
    "AGENTD_AGENT_MONITOR": abi.AGENT_MONITOR,
    "AGENTD_AGENT_STRICT": abi.AGENT_STRICT,
    "AGENTD_AGENT_UNRECORDED": abi.AGENT_UNRECORDED,
    "AGENTD_MATCHES": abi.MATCHES,
    "AGENTD_MATCHED": abi.MATCHED,
    "AGENTD_MATCH_USED": abi.MATCH_USED,
    "AGENTD_MATCH_EXEMPT": abi.MATCH_EXEMPT,
    "AGENTD_MATCH_REFUSE": abi.MATCH_REFUSE,
    "AGENTD_MATCH_VARIABLE": abi.MATCH_VARIABLE,
    "AGENTD_MATCH_LABEL": abi.MATCH_LABEL,
    "AGENTD_CONTAINERS": abi.CONTAINERS,
    "AGENTD_NO_MATCH": abi.NO_MATCH,
    "AGENTD_TAG_ROOT_EXEC": abi.TAG_ROOT_EXEC,
    "AGENTD_TAG_HELD": abi.TAG_HELD,
    "AGENTD_TAG_NOTIFIED": abi.TAG_NOTIFIED,
    "AGENTD_TAG_LOOKED_AT": abi.TAG_LOOKED_AT,
    "AGENTD_TAG_ASKED": abi.TAG_ASKED,
} | {f"AGENTD_EVENT_{name}": value for name, value in vars(abi).items() if name.startswith("FLAG_")}

# Constants that only the kernel's side uses.
KERNEL_ONLY: Final = {
    "AGENTD_PATH_MAX": 4096,
    "AGENTD_ARGV_CHUNK": 4096,
    "AGENTD_ARGV_CHUNKS": 64,
    "AGENTD_ARGV_KEPT": 4096,
    "AGENTD_TAG_STOP": 2,
    "AGENTD_TAG_FRESH": 8,
    "AGENTD_TAG_KILL_AT_EXIT": 16,
    "AGENTD_TAG_KILLED": 32,
    "AGENTD_TAG_AGAIN": 64,
    "AGENTD_TAG_SIGNALED": 256,
    "AGENTD_TAG_SIGNALED_WORKLOAD": 512,
    "AGENTD_TAG_SIGNALED_AGENTD": 2048,
}


class Btf:
    """The named types of one BTF section, as `bpftool btf dump` gives them."""

    def __init__(self, file: Path) -> None:
        dump = subprocess.run(
            ["/usr/sbin/bpftool", "-j", "btf", "dump", "file", file], check=True, capture_output=True, text=True
        )
        self._types: dict[int, dict[str, Any]] = {item["id"]: item for item in json.loads(dump.stdout)["types"]}

    def named(self, kind: str) -> dict[str, dict[str, Any]]:
        """The types of a kind (`STRUCT`, `ENUM`) that are called agentd_*."""
        return {
            item["name"]: item
            for item in self._types.values()
            if item["kind"] == kind and item["name"].startswith("agentd_")
        }

    def layout(self, struct: dict[str, Any]) -> Layout:
        members: Layout = {}
        for member in struct["members"]:
            assert member["bits_offset"] % 8 == 0
            size, shape = self._shape(member["type_id"])
            members[member["name"]] = (member["bits_offset"] // 8, size, shape)
        return members

    def _shape(self, number: int) -> tuple[int, Shape]:
        item = self._types[number]
        match item["kind"]:
            case "TYPEDEF" | "CONST" | "VOLATILE":
                return self._shape(item["type_id"])
            case "INT" if item["name"] == "char":
                return 1, ("char",)
            case "INT":
                return item["size"], ("int", item["size"], item["encoding"] == "SIGNED")
            case "ARRAY":
                size, shape = self._shape(item["type_id"])
                return size * item["nr_elems"], ("array", item["nr_elems"], shape)
            case "STRUCT":
                return item["size"], ("struct", item["name"])
            case kind:
                raise AssertionError(f"a member of kind {kind} can't cross to user space")


def python_layout(structure: type[ctypes.Structure]) -> Layout:
    return {
        name: (getattr(structure, name).offset, getattr(structure, name).size, python_shape(kind))
        for name, kind in structure._fields_  # type: ignore[misc]
    }


def python_shape(kind: Any) -> Shape:
    if issubclass(kind, ctypes.Array):
        return ("array", kind._length_, python_shape(kind._type_))
    if issubclass(kind, ctypes.Structure):
        return ("struct", next(name for name, mirror in STRUCTURES.items() if mirror is kind))
    if kind is ctypes.c_char:
        return ("char",)
    return ("int", ctypes.sizeof(kind), kind(-1).value < 0)


def compiled(header: str, folder: Path) -> Btf:
    """The BTF of a file that uses every structure and enumeration of the header's text."""
    (folder / "abi.h").write_text(header)
    names = re.findall(r"^(struct|enum) (\w+) \{", header, re.MULTILINE)
    uses = "".join(f"{kind} {name} use_{name};\n" for kind, name in names)
    (folder / "use.c").write_text('#include "abi.h"\n' + uses)
    command = ["clang-16", "-target", "bpf", "-g", "-O2", "-c", "use.c", "-o", "use.o"]
    subprocess.run(command, cwd=folder, check=True)
    return Btf(folder / "use.o")


def differences(btf: Btf, *, complete: bool) -> list[str]:
    """What structures and enumerations of the C side differ in from their mirrors; none when complete and equal."""
    found: list[str] = []
    structs, enums = btf.named("STRUCT"), btf.named("ENUM")
    if complete:
        found += [f"struct {name}: on one side only" for name in structs.keys() ^ STRUCTURES.keys()]
        found += [f"enum {name}: on one side only" for name in enums.keys() ^ ENUMS.keys()]
    for name in sorted(structs.keys() & STRUCTURES.keys()):
        mirror = STRUCTURES[name]
        if structs[name]["size"] != ctypes.sizeof(mirror):
            found.append(f"struct {name}: {structs[name]['size']} bytes in C, {ctypes.sizeof(mirror)} in Python")
        ours, theirs = python_layout(mirror), btf.layout(structs[name])
        if list(ours) != list(theirs):
            found.append(f"struct {name}: members {list(theirs)} in C, {list(ours)} in Python")
        for member in ours.keys() & theirs.keys():
            if ours[member] != theirs[member]:
                found.append(f"struct {name}.{member}: {theirs[member]} in C, {ours[member]} in Python")
    for name in sorted(enums.keys() & ENUMS.keys()):
        prefix, mirrors = ENUMS[name]
        in_c = {value["name"]: value["val"] for value in enums[name]["values"]}
        in_python = {prefix + key: int(value) for key, value in mirrors.items()}
        if in_c != in_python:
            found.append(f"enum {name}: {sorted(in_c.items() ^ in_python.items())} differ")
    return found


def test_every_structure_and_enumeration_is_mirrored_exactly(tmp_path: Path) -> None:
    """Names, values, sizes, offsets and signs of all of abi.h are those of the classes in Python."""
    assert differences(compiled(HEADER.read_text(), tmp_path), complete=True) == []


@pytest.mark.parametrize("name", ["agentd.bpf.o", "probe.bpf.o"])
def test_the_compiled_object_has_the_same_layouts(name: str) -> None:
    """The BTF of the object that is loaded agrees too, so it isn't an old one."""
    btf = Btf(bpf_object(name))
    assert {"agentd_tables", "agentd_agent", "agentd_event", "agentd_tag", "agentd_control"} <= btf.named(
        "STRUCT"
    ).keys()
    assert differences(btf, complete=False) == []


def test_structures_have_no_hidden_bytes(tmp_path: Path) -> None:
    """Every byte of every structure belongs to a member: nothing of the kernel's stack leaks, no compiler decides."""
    btf = compiled(HEADER.read_text(), tmp_path)
    for name, struct in btf.named("STRUCT").items():
        assert sum(size for _, size, _ in btf.layout(struct).values()) == struct["size"], name


MOVES: Final = {
    "exchange": ("agentd_u16 exe_len;\n\tagentd_u16 argv_len;", "agentd_u16 argv_len;\n\tagentd_u16 exe_len;"),
    "insert": ("agentd_u32 rule;\n", "agentd_u32 fresh;\n\tagentd_u32 rule;\n"),
    "remove": ("\tagentd_u64 last;\n", ""),
    "narrow": ("agentd_u16 object_len;", "agentd_u8 object_len;\n\tagentd_u8 more;"),
    "sign": ("agentd_s32 uses;", "agentd_u32 uses;"),
    "length": ("char comm[16];", "char comm[20];"),
    "operation": ("AGENTD_OP_DELETE = 4,\n\tAGENTD_OP_RENAME = 5", "AGENTD_OP_RENAME = 4,\n\tAGENTD_OP_DELETE = 5"),
    "decision": ("AGENTD_DENY = 2", "AGENTD_DENY = 3"),
    "event": ("AGENTD_EVENT_GONE = 3,", ""),
    "structure": ("struct agentd_grant_key {", "struct agentd_grant_name {"),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_difference_is_seen(move: str, tmp_path: Path) -> None:
    """A member that moves, grows, changes its sign or goes, and a number that changes, are each reported."""
    before, after = MOVES[move]
    header = HEADER.read_text()
    assert header.count(before) == 1
    assert differences(compiled(header.replace(before, after), tmp_path), complete=True) != []


def c_constants(header: str, folder: Path) -> dict[str, int]:
    """Every #define of the header that has a value, as a program compiled for this machine prints it."""
    names = re.findall(r"^#define (AGENTD_\w+)[ \t]+\S", header, re.MULTILINE)
    (folder / "abi.h").write_text(header)
    lines = "".join(f'\tprintf("{name} %llu\\n", (unsigned long long){name});\n' for name in names)
    (folder / "print.c").write_text(f'#include <stdio.h>\n#include "abi.h"\nint main(void)\n{{\n{lines}}}\n')
    subprocess.run(["gcc", "-Wall", "-Werror", "print.c", "-o", "print"], cwd=folder, check=True)
    output = subprocess.run([folder / "print"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


def test_every_constant_is_mirrored(tmp_path: Path) -> None:
    """Each #define has the value that Python uses, and none is without a mirror or a reason to have none."""
    assert c_constants(HEADER.read_text(), tmp_path) == {**CONSTANTS, **KERNEL_ONLY}


def test_a_changed_constant_is_seen(tmp_path: Path) -> None:
    """A #define that changes, and one that is new, make the comparison fail."""
    header = HEADER.read_text()
    changed = header.replace("#define AGENTD_LIST_MAX 512", "#define AGENTD_LIST_MAX 511\n#define AGENTD_NEW 1")
    differing = c_constants(changed, tmp_path).items() - {**CONSTANTS, **KERNEL_ONLY}.items()
    assert {name for name, _ in differing} == {"AGENTD_LIST_MAX", "AGENTD_NEW"}


def test_every_number_in_python_is_compared() -> None:
    """No constant of abi.py is without a counterpart that one of these tests compares."""
    compared = {prefix + name for prefix, mirrors in ENUMS.values() for name in mirrors} | CONSTANTS.keys()
    numbers = {name for name, value in vars(abi).items() if name.isupper() and isinstance(value, int)}
    unmatched = {name for name in numbers if not {f"AGENTD_{name}", f"AGENTD_EVENT_{name}"} & compared}
    assert unmatched == {"NO_OUTCOME", "STAT_BUCKETS"}
    assert abi.STAT_BUCKETS == abi.STAT_COUNT - abi.STAT_BUCKET0
    assert abi.NO_OUTCOME == U32  # what verdict_deny() of bpf/lib/verdict.bpf.h writes
    assert (abi.RULE_DEFAULT, abi.RULE_UNRESOLVED) == (resolved.RULE_DEFAULT & U32, resolved.RULE_UNRESOLVED & U32)


def test_outcome_words_are_packed_as_the_kernel_unpacks_them() -> None:
    """Decision, action and risk fit the bytes that verdict_outcome() takes out of the first word."""
    for kind in (Decision, Action, Guarantee, Point, Op):
        assert all(0 <= item < 256 for item in kind)
    outcome = resolved.Outcome(Decision.DENY, Action.PAUSE, Risk.CRITICAL, resolved.RULE_DEFAULT, 7, 300)
    assert tables._outcome_words(outcome) == (2 | 3 << 8 | 3 << 16, U32, 7, 300)
