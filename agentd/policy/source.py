"""YAML text -> a tree of nodes that know their line and column. The only module that knows YAML.

What the tree means is the business of the readers above; here only what can be wrong with *any* document is found:
not UTF-8, not YAML, too large, too deep, duplicate keys, tags, alias bombs. Scalars are resolved as PyYAML's safe
loader does (`yes` is a boolean, `1:20` a number), because that is how aegize reads the same file.

The document is read event by event: nothing recurses on the input's depth, and libyaml does the scanning when PyYAML
was built with it.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from agentd.errors import EXIT_USAGE
from agentd.policy.problem import PolicyError, Problem, Problems

FilePath = str | Path

MAX_BYTES: Final = 8 * 1024 * 1024
MAX_FILES: Final = 100  # of one folder
MAX_DEPTH: Final = 32  # the language needs 9
MAX_NODES: Final = 2_000_000  # with every alias counted as what it stands for

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STR = "tag:yaml.org,2002:str"
_SEQ = "tag:yaml.org,2002:seq"
_MAP = "tag:yaml.org,2002:map"
_MERGE = "tag:yaml.org,2002:merge"
_KINDS: Final = {
    "tag:yaml.org,2002:null": "null",
    "tag:yaml.org,2002:bool": "a boolean",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:value": "a value mark",
    _MERGE: "a merge key",
    _STR: "a string",
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """`value` is str, int, float, bool or None; a date stays its text, and `kind` tells it from a string."""

    line: int
    column: int
    text: str  # as written, without quotes
    value: str | int | float | bool | None
    kind: str  # for messages: `a string`, `a number`, ...


@dataclass(frozen=True, slots=True)
class Sequence:
    line: int
    column: int
    items: tuple[Node, ...]
    kind: str = "a list"


@dataclass(frozen=True, slots=True)
class Mapping:
    line: int
    column: int
    entries: tuple[tuple[Scalar, Node], ...]  # in the order of the file, keys unique
    kind: str = "a mapping"

    def get(self, key: str) -> Node | None:
        """The value of the string key `key`, or None."""
        return next((value for name, value in self.entries if name.kind == "a string" and name.value == key), None)


Node = Scalar | Sequence | Mapping


class _Stop(Exception):
    pass


def read_file(path: FilePath) -> bytes:
    """The bytes of a policy or case file.

    Raises PolicyError (exit code 2) for a file that is missing, unreadable or larger than MAX_BYTES.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"can't be read: {reason[:1].lower()}{reason[1:]}"
        problem = Problem(str(path), 0, 0, "", message, "give the path of a policy file")
        raise PolicyError([problem], exit_code=EXIT_USAGE) from error
    if len(data) > MAX_BYTES:
        raise PolicyError([Problem(str(path), 0, 0, "", f"is larger than {MAX_BYTES >> 20} MiB", "split the policy")])
    return data


def files_of(path: FilePath, environment: str = "") -> list[tuple[Path, bool]]:
    """The policy files of a file or folder, in the order of their names; (file, does it stand in an environment?).

    A folder gives its `*.yaml` (not hidden ones, not `*.cases.yaml`). environment: the files of the folder of that name
    follow, which stands in the folder, or beside the file. Raises PolicyError (exit code 2) when there is none of them.
    """
    path = Path(path)
    found = [(file, False) for file in yaml_files(path)] if path.is_dir() else [(path, False)]
    if not found:
        _refuse(path, "no policy file stands in this folder", "put one there whose name ends in .yaml")
    if environment:
        folder = (path if path.is_dir() else path.parent) / environment
        found += [(file, True) for file in yaml_files(folder)]
        if not found[-1][1]:
            _refuse(folder, f"environment {environment} has no policy file here", "add one, or correct environment")
    return found


def yaml_files(folder: Path) -> list[Path]:
    """The `*.yaml` of a folder that count, by name; none where there is no such folder. Raises PolicyError."""
    try:
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        _refuse(folder, f"can't be read: {(error.strerror or str(error)).lower()}", "")
    kept = [n for n in names if n.endswith(".yaml") and not n.startswith(".") and not n.endswith(".cases.yaml")]
    for name in sorted(names):  # a rule in `20-deny.yml` is one that somebody believes to be in force
        if name.lower().endswith((".yml", ".yaml")) and not name.endswith(".yaml") and not name.startswith("."):
            _refuse(
                folder / name, "a file of this name is not read", f"name it {Path(name).stem}.yaml, or move it away"
            )
    if len(kept) > MAX_FILES:
        _refuse(folder, f"more than {MAX_FILES} files", "join some of them")
    return [folder / name for name in sorted(kept)]


def _refuse(path: Path, why: str, hint: str) -> NoReturn:
    raise PolicyError([Problem(str(path), 0, 0, "", why, hint)], exit_code=EXIT_USAGE)


def parse(data: bytes, problems: Problems) -> Node | None:
    """The document in `data`, or None (with the reason in `problems`) if it can't be read.

    Mistakes that leave a readable tree (a duplicate key, an unknown tag) are put into `problems` too, but a tree comes
    back so that the readers above find what else is wrong.
    """
    text = _decode(data, problems)
    if text is None:
        return None
    try:
        return _Builder(problems).build(text)
    except _Stop:
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        problems.error(line, column, "", f"not valid YAML: {message}")
    except yaml.YAMLError as error:
        problems.error(0, 0, "", f"not valid YAML: {str(error).splitlines()[0]}")
    return None


def plain(node: Node) -> object:
    """`node` as ordinary Python values, the way a safe YAML loader gives them (a date stays a non-string)."""
    if isinstance(node, Mapping):
        return {key.value: plain(value) for key, value in node.entries}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return (node.text,) if node.kind == "a date" else node.value


def _decode(data: bytes, problems: Problems) -> str | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = _position(before)
        problems.error(line, column, "", f"byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8")
        return None
    text = text.removeprefix("\ufeff")
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if bad:
        line, column = _position(text[: bad.start()])
        problems.error(line, column, "", f"control character U+{ord(bad.group()):04X} in the file", "remove it")
        return None
    return text


def _position(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


@functools.cache
def _resolver() -> Any:
    return yaml.SafeLoader("")


def _scalar_tag(value: str, plain_style: bool, quoted: bool) -> str:
    return str(_resolver().resolve(yaml.ScalarNode, value, (plain_style, quoted)))


class _Open:
    """A collection whose end event has not come yet."""

    __slots__ = ("anchor", "column", "is_map", "items", "line", "size")

    def __init__(self, event: Any, *, is_map: bool) -> None:
        self.line = event.start_mark.line + 1
        self.column = event.start_mark.column + 1
        self.anchor = event.anchor
        self.is_map = is_map
        self.items: list[Node] = []
        self.size = 1


class _Builder:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._anchors: dict[str, tuple[Node, int] | None] = {}  # None: still open
        self._stack: list[_Open] = []
        self._root: Node | None = None

    def build(self, text: str) -> Node | None:
        documents = 0
        for event in self._events(text):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._stop(event, "a second document starts here", "keep one document in the file")
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._start(event)
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                self._end()
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
        return self._root

    @staticmethod
    def _events(text: str) -> Iterator[Any]:
        yield from yaml.parse(text, Loader=_LOADER)

    def _stop(self, event: Any, message: str, hint: str = "") -> None:
        self._error(event, message, hint)
        raise _Stop

    def _error(self, event: Any, message: str, hint: str = "") -> None:
        mark = event.start_mark
        self._problems.error(mark.line + 1, mark.column + 1, "", message, hint)

    def _start(self, event: Any) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        is_map = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _MAP if is_map else _SEQ):
            self._error(event, f"the tag {event.tag} is not supported", "remove it")
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(event, is_map=is_map))

    def _end(self) -> None:
        top = self._stack.pop()
        node: Node
        if top.is_map:
            node = Mapping(top.line, top.column, self._entries(top))
        else:
            node = Sequence(top.line, top.column, tuple(top.items))
        if top.anchor:
            self._anchors[top.anchor] = (node, top.size)
        self._add(node, top.size)

    def _scalar(self, event: Any) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        tag = event.tag
        if tag in (None, "!"):
            tag = _STR if tag == "!" else _scalar_tag(event.value, *event.implicit)
        if any("\ud800" <= char <= "\udfff" for char in event.value):
            self._error(event, "the string has half of a surrogate pair, which is no character")
        node = Scalar(line, column, event.value, *self._value(event, tag))
        if event.anchor:
            self._anchors[event.anchor] = (node, 1)
        self._add(node, 1)

    def _value(self, event: Any, tag: str) -> tuple[str | int | float | bool | None, str]:
        kind = _KINDS.get(tag)
        if kind is None:
            self._error(event, f"the tag {tag} is not supported", "remove it")
            return event.value, "a tagged value"
        if kind in ("a string", "a date", "a value mark", "a merge key"):
            return event.value, kind
        try:
            value = _resolver().construct_object(yaml.ScalarNode(tag, event.value), deep=True)
        except (ValueError, yaml.YAMLError, OverflowError, IndexError, KeyError):
            self._error(event, f"{event.value[:40]!r} is not {kind}")
            return None, kind
        if value is None or isinstance(value, (bool, int, float)):
            return value, kind
        return event.value, kind

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            self._stop(event, f"the alias *{event.anchor} has no anchor before it")
        known = self._anchors[event.anchor]
        if known is None:
            self._stop(event, f"the alias *{event.anchor} stands inside its own anchor")
            return
        self._add(*known)

    def _add(self, node: Node, size: int) -> None:
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        top.size += size
        if top.size > MAX_NODES:
            self._problems.error(node.line, node.column, "", f"more than {MAX_NODES:,} values, aliases expanded")
            raise _Stop
        top.items.append(node)

    def _entries(self, top: _Open) -> tuple[tuple[Scalar, Node], ...]:
        own: dict[Hashable, tuple[Scalar, Node]] = {}
        merged: dict[Hashable, tuple[Scalar, Node]] = {}
        merges: Scalar | None = None
        for key, value in zip(top.items[::2], top.items[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._problems.error(key.line, key.column, "", f"{key.kind} can't be a key", "write a string")
                continue
            if key.kind == "a merge key":
                if merges is not None:
                    self._duplicate(key, merges)
                merges = key
                self._merge(value, merged)
                continue
            identity = (key.kind, key.value)
            if identity in own:
                self._duplicate(key, own[identity][0])
            own[identity] = (key, value)
        return tuple({**merged, **own}.values())

    def _duplicate(self, key: Scalar, first: Scalar) -> None:
        self._problems.error(
            key.line, key.column, "", f"duplicate key {key.text!r}: it stands in line {first.line} too", "remove one"
        )

    def _merge(self, value: Node, merged: dict[Hashable, tuple[Scalar, Node]]) -> None:
        sources = value.items if isinstance(value, Sequence) else (value,)
        for source in sources:
            if not isinstance(source, Mapping):
                self._problems.error(source.line, source.column, "", f"<< needs a mapping, got {source.kind}")
                continue
            for key, item in source.entries:
                merged.setdefault((key.kind, key.value), (key, item))
