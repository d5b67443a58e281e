"""What stands before every rule: agentd's own files, and folders whose renaming would take a rule's protection away.

Both are sets of patterns and operations of an agent; in the kernel's tables they stand in the automaton of the rules'
own paths. No section of the policy, because no policy could take them back.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from agentd.model import Op
from agentd.policy.anchor import escape
from agentd.policy.patterns import Dialect, Glob, OneOf, Token, parse

TOOL: Final = "agentd"
OPERATION: Final = "guard"
CHANGES: Final = frozenset({Op.WRITE, Op.CREATE, Op.DELETE, Op.RENAME, Op.LINK, Op.SETATTR, Op.MOUNT})
EVERYTHING: Final = CHANGES | {Op.READ, Op.EXEC, Op.EXECMEM, Op.CHROOT, Op.UNIX_CONNECT}
OVER: Final = frozenset({Op.RENAME, Op.MOUNT})  # would give what is below another name, or hide it
_SLASH_OR_ESCAPE: Final = re.compile(r"/|\\.", re.DOTALL)  # `\/` is a slash, too; no class holds one


@dataclass(frozen=True, slots=True)
class Guarded:
    """Absolute paths, without symlinks, of files and of folders with all that is in them.

    secret: not touched at all; kept: read and run, and not changed.
    """

    secret: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


NOTHING: Final = Guarded()


@dataclass(frozen=True, slots=True)
class Fence:
    """These operations on what matches one of the patterns (numbers of the agent's) are denied; `rule`: RULE_..."""

    patterns: tuple[int, ...]
    ops: frozenset[Op]
    rule: int


def globs(guarded: Guarded) -> tuple[tuple[tuple[Glob, ...], frozenset[Op]], ...]:
    """The patterns of agentd's own files, and the operations that they are kept from."""
    return (
        (tuple(_with_all(guarded.secret)), EVERYTHING),
        (tuple(_with_all(guarded.kept)), CHANGES),
        (tuple(_over((*guarded.secret, *guarded.kept))), OVER),
    )


def _with_all(paths: Iterable[str]) -> Iterator[Glob]:
    for path in paths:
        literal = escape(path, Dialect.AGENTD)
        yield Glob(literal, Dialect.AGENTD)
        yield Glob(f"{literal}/**", Dialect.AGENTD)


def _over(paths: Iterable[str]) -> Iterator[Glob]:
    for path in paths:
        while (path := posixpath.dirname(path)) != "/":
            yield Glob(escape(path, Dialect.AGENTD), Dialect.AGENTD)


def above(glob: Glob) -> Iterator[Glob]:
    """The folders on the way to what `glob` matches, as far as it names them: `/srv` and `/srv/x` of `/srv/x/**`,
    `**/.ssh` of `**/.ssh/**`, none of `**/.env`.

    A part `**` names no folder, and neither does a part of wildcards only behind one. In aegize's globs, where `*`
    crosses `/`, nothing behind the first wildcard names any. Raises ValueError when the glob is malformed.
    """
    if glob.dialect is not Dialect.AGENTD:
        yield from _above_wildcards(glob)
        return
    anywhere = False
    start = 0
    for slash in _SLASH_OR_ESCAPE.finditer(glob.text):
        if not slash[0].endswith("/"):
            continue
        part, start = glob.text[start : slash.start()], slash.end()
        if part == "**":
            anywhere = True
        elif part and not (anywhere and set(part) <= set("*?")):
            yield Glob(glob.text[: slash.start()], glob.dialect)


def _above_wildcards(glob: Glob) -> Iterator[Glob]:
    """The folders that an aegize glob names before its first wildcard. `[*]` is none, but how to write a `*`."""
    data = bytearray()
    for byte in map(_byte, parse(glob)):
        if byte < 0:
            break
        data.append(byte)
    named = data.decode("utf-8", "surrogateescape")
    written = set("*?]").isdisjoint(named)  # a bracket that nothing closes is one
    for end, char in enumerate(named):
        if char == "/" and end:
            yield Glob(named[:end] if written else escape(named[:end], glob.dialect), glob.dialect)


def _byte(token: Token) -> int:
    """The one byte that a token stands for; -1: it stands for others, too."""
    if isinstance(token, OneOf) and token.mask.bit_count() == 1:
        return token.mask.bit_length() - 1
    return token if isinstance(token, int) else -1
