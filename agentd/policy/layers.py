"""Several documents as one policy (or one configuration): numbered files, and what an environment adds to them.

Documents are joined as trees before anything is read of them, so that the rest of agentd knows one document only. A
line number says which file it is of (`SPAN` lines to a file), and `JoinedProblems` gives each place its file back.

Joined is what stands one after another: agents by name, their lists behind one another (the rules of the first file are
judged first within a section), their other keys by the last file that has them; entries of `tools:` behind one another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentd.policy import source
from agentd.policy.ir import Language
from agentd.policy.parse import parse_language
from agentd.policy.problem import Problem, Problems, Severity
from agentd.policy.reader import Reader
from agentd.policy.source import Mapping, Node, Scalar

SPAN: Final = 10_000_000  # lines; a file has at most source.MAX_BYTES bytes, so fewer lines
LISTS: Final = frozenset({"match", "allow", "require_approval", "deny"})
LOOSENS: Final = "loosens"


@dataclass(frozen=True, slots=True)
class Document:
    """The bytes of one file. environment: it stands in the folder of an environment."""

    data: bytes
    file: str
    environment: bool = False


@dataclass(slots=True)
class JoinedProblems(Problems):
    """Problems of several files: a line tells which."""

    files: Sequence[str] = field(default=())

    def place(self, line: int, column: int) -> tuple[str, int, int]:
        """(file, line, column) of a place in the joined document."""
        number, line = divmod(line, SPAN)
        return self.files[number], line, column

    def error(self, line: int, column: int, path: str, message: str, hint: str = "") -> None:
        self.errors.append(Problem(*self.place(line, column), path, message, hint))

    def warn(self, line: int, column: int, path: str, message: str, hint: str = "") -> None:
        self.warnings.append(Problem(*self.place(line, column), path, message, hint, Severity.WARNING))


@dataclass(frozen=True, slots=True)
class Part:
    """A document, read as far as its tree. loosens: it says that it may allow more than the files before it."""

    node: Mapping
    document: Document
    loosens: bool


def read_parts(documents: Sequence[Document], problems: JoinedProblems, *, versioned: bool = True) -> list[Part]:
    """The trees of `documents`, each with its lines shifted to its place; mistakes go to `problems`.

    versioned: they are policies, and each must be one with `version: 1`.
    """
    parts = []
    for number, document in enumerate(documents):
        own = Problems(document.file)
        node = source.parse(document.data, own)
        problems.errors += own.errors
        problems.warnings += own.warnings
        if node is None:
            continue
        reader = Reader(shifted(node, number * SPAN), "", problems)
        mapping = reader.mapping()
        if mapping is None:
            continue
        if versioned and parse_language(reader) is not Language.AGENTD:
            reader.error("an aegize policy stands alone", "add `version: 1`, or remove the other files")
        loosens = _loosens(reader, mapping, environment=document.environment)
        entries = tuple((key, value) for key, value in mapping.entries if key.text != LOOSENS)
        parts.append(Part(dataclasses.replace(mapping, entries=entries), document, loosens))
    return parts


def _loosens(reader: Reader, mapping: Mapping, *, environment: bool) -> bool:
    value = mapping.get(LOOSENS)
    if value is None:
        return False
    if not environment:
        reader.below(LOOSENS, value).error("only a file of an environment says that", "remove it")
    elif not (isinstance(value, Scalar) and isinstance(value.value, bool)):
        reader.below(LOOSENS, value).expected("true or false")
    else:
        return value.value
    return False


def join(parts: Sequence[Part], problems: JoinedProblems) -> Mapping:
    """One policy document of all parts."""
    top: dict[str, list[tuple[Scalar, Node]]] = {}
    for part in parts:
        for key, value in part.node.entries:
            top.setdefault(key.text if key.kind == "a string" else f"\0{key.text}", []).append((key, value))
    entries: list[tuple[Scalar, Node]] = []
    for name, found in top.items():
        if name == "tools" and len(found) > 1:
            maps = _mappings(name, found, problems)
            entries.append((found[0][0], _joined(maps, [entry for one in maps for entry in one.entries])))
        elif name == "agents" and len(found) > 1:
            maps = _mappings(name, found, problems)
            entries.append((found[0][0], _joined(maps, _agents(maps, problems))))
        elif name == "version":
            entries.append(found[0])
        else:
            entries += found  # a key that nobody knows: the reader says so, at each place
    first = parts[0].node
    return Mapping(first.line, first.column, tuple(entries))


def _mappings(name: str, found: Iterable[tuple[Scalar, Node]], problems: JoinedProblems) -> list[Mapping]:
    readers = [Reader(value, name, problems) for _, value in found]
    maps = [reader.mapping() for reader in readers if not reader.is_null]
    return [one for one in maps if one is not None]


def _joined(maps: Sequence[Mapping], entries: Iterable[tuple[Scalar, Node]]) -> Node:
    line, column = (maps[0].line, maps[0].column) if maps else (0, 0)
    return Mapping(line, column, tuple(entries))


def _agents(maps: Sequence[Mapping], problems: JoinedProblems) -> list[tuple[Scalar, Node]]:
    """Every agent once, in the order in which they are first named."""
    found: dict[tuple[str, str], list[tuple[Scalar, Node]]] = {}
    for one in maps:
        for key, value in one.entries:
            found.setdefault((key.kind, key.text), []).append((key, value))
    made: list[tuple[Scalar, Node]] = []
    for (_, name), several in found.items():
        key, value = several[0]
        if len(several) > 1:
            bodies = _mappings(f"agents.{name}", several, problems)
            value = _joined(bodies, _agent(bodies)) if bodies else value
        made.append((key, value))
    return made


def _agent(bodies: Sequence[Mapping]) -> list[tuple[Scalar, Node]]:
    found: dict[str, tuple[Scalar, Node]] = {}
    for body in bodies:
        for key, value in body.entries:
            before = found.get(key.text)
            if before is not None and key.text in LISTS:
                value = _behind(before[1], value)
            found[key.text] = (key, value)
    return list(found.values())


def _behind(first: Node, second: Node) -> Node:
    """Two lists as one. What is no list stays as it is, for the reader to complain about."""
    empty = [isinstance(node, Scalar) and node.value is None for node in (first, second)]
    if empty[1]:
        return first
    if empty[0] or not isinstance(second, source.Sequence):
        return second
    if not isinstance(first, source.Sequence):
        return first
    return dataclasses.replace(first, items=first.items + second.items)


def shifted(node: Node, by: int, known: dict[int, Node] | None = None) -> Node:
    """`node` with `by` added to every line. Shared nodes (aliases) stay shared."""
    if not by:
        return node
    known = {} if known is None else known
    found = known.get(id(node))
    if found is not None:
        return found
    made: Node
    if isinstance(node, Scalar):
        made = dataclasses.replace(node, line=node.line + by)
    elif isinstance(node, Mapping):
        entries = tuple((shifted(key, by, known), shifted(value, by, known)) for key, value in node.entries)
        made = Mapping(node.line + by, node.column, tuple((k, v) for k, v in entries if isinstance(k, Scalar)))
    else:
        made = source.Sequence(node.line + by, node.column, tuple(shifted(item, by, known) for item in node.items))
    known[id(node)] = made
    return made
