"""From a path pattern as written to the globs over the kernel's objects that it means.

The kernel's object of a path operation is one of:

* an absolute path from the root of the mount namespace, resolved (no symlink, no `.`, no `..`, no trailing slash);
* `anon:...` for what has no place in any mount namespace (`anon:pipefs`, `anon:tmpfs/memfd:NAME`);
* `@name` for an abstract unix socket;
* a word for what is no file at all (`unshare:user`, `ptrace:attach`).
"""

from __future__ import annotations

import functools
import re
from typing import Final

from agentd.policy.patterns import Dialect, Glob, parse

HOMES: Final = ("/root", "/home/*")  # what `~` means: every home directory, because a workload may change its user
_LITERAL: Final = ("/", "**", "anon:", "@", "ptrace:", "signal:", "unshare:", "setns:", "inet:")


@functools.lru_cache(maxsize=4096)  # every agent of every policy has the shipped entries
def agentd_globs(text: str, workspace: str) -> tuple[Glob, ...]:
    """The globs of a `version: 1` path pattern. Raises ValueError when it can't match any resolved path.

    `/x` and `**/x` stand for themselves, `~/x` for every home directory, anything else is below `workspace`; `.` is the
    workspace itself.
    """
    if text == "~" or text.startswith("~/"):
        texts = [home + text[1:] for home in HOMES]
    elif text.startswith("~"):
        raise ValueError("only `~/` is known, which is every home directory; write the path of a user's home in full")
    elif text.startswith(_LITERAL):
        texts = [text]
    else:
        below = text.removeprefix("./")
        texts = [escape(workspace, Dialect.AGENTD) if below == "." else under(workspace, below, Dialect.AGENTD)]
    for one in texts:
        _refuse_unresolved(one)
        parse(Glob(one, Dialect.AGENTD))
    return tuple(Glob(one, Dialect.AGENTD) for one in texts)


def word_glob(text: str) -> tuple[Glob, ...]:
    """The glob of an object that is a word, taken as it stands. Raises ValueError when it is malformed."""
    glob = Glob(text, Dialect.AGENTD)
    parse(glob)
    return (glob,)


def aegize_normal(text: str) -> str:
    """A path or a pattern as aegize compares it: `\\` is `/`, and every leading `./` goes."""
    text = text.replace("\\", "/")
    while text.startswith("./"):
        text = text[2:]
    return text


def aegize_globs(text: str, workspace: str) -> tuple[Glob, ...]:
    """The globs of an aegize path pattern: as it stands, and a relative one below `workspace` too.

    Raises ValueError for one that no glob can express (too long, a NUL).
    """
    normal = aegize_normal(text)
    if not normal:
        return ()
    texts = [normal]
    if not normal.startswith("/"):
        texts.append(under(workspace, normal, Dialect.FNMATCH))
    for one in texts:
        parse(Glob(one, Dialect.FNMATCH))
    return tuple(Glob(one, Dialect.FNMATCH) for one in texts)


def escape(text: str, dialect: Dialect) -> str:
    """A pattern that matches exactly `text`."""
    if dialect is Dialect.FNMATCH:
        return re.sub(r"([*?\[])", r"[\1]", text)
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def under(workspace: str, pattern: str, dialect: Dialect) -> str:
    """`pattern` below the folder `workspace`, whose characters stand for themselves."""
    return f"{escape(workspace, dialect).rstrip('/')}/{pattern}"


def _refuse_unresolved(text: str) -> None:
    """A component that no resolved path has makes a rule that never matches: refuse it."""
    if not text.startswith(("/", "**")) or text == "/":
        return
    parts = text.split("/")
    if parts[-1] == "" and len(parts) > 1:
        raise ValueError("a path has no trailing slash; `x` is the directory itself, `x/**` what is below it")
    if "" in parts[1:]:
        raise ValueError("`//` never occurs in a resolved path; write one slash")
    if "." in parts or ".." in parts:
        raise ValueError("`.` and `..` never occur in a resolved path; write the path they lead to")
