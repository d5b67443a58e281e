"""What stands before every rule: agentd's own files, and folders whose renaming would take a rule's protection away.

Both are sets of patterns and operations of an agent; in the kernel's tables they stand in the automaton of the rules'
own paths. No section of the policy, because no policy could take them back.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from agentd.model import Op
from agentd.policy.anchor import escape
from agentd.policy.patterns import Dialect, Glob

TOOL: Final = "agentd"
OPERATION: Final = "guard"
CHANGES: Final = frozenset({Op.WRITE, Op.CREATE, Op.DELETE, Op.RENAME, Op.LINK, Op.SETATTR, Op.MOUNT})
EVERYTHING: Final = CHANGES | {Op.READ, Op.EXEC, Op.EXECMEM, Op.CHROOT, Op.UNIX_CONNECT}
OVER: Final = frozenset({Op.RENAME, Op.MOUNT})  # would give what is below another name, or hide it
_WILD: Final = frozenset("*?[")


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
    crosses `/`, nothing behind the first wildcard names any.
    """
    parts = glob.text.split("/")
    anywhere = False
    for end, part in enumerate(parts[:-1], 1):
        if "**" in part or (glob.dialect is not Dialect.AGENTD and _WILD & set(part)):
            if glob.dialect is not Dialect.AGENTD:
                return
            anywhere = True
        elif part and not (anywhere and not set(part) - set("*?")):
            yield Glob("/".join(parts[:end]), glob.dialect)
