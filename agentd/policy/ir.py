"""The typed source of a policy: what the file says, checked for form, every part with its position.

Nothing is resolved here: paths are as written, the catalogue isn't known, defaults aren't filled in. `parse` makes
these from nodes and `resolve` makes rules of them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from agentd.model import Action, Guarantee, Mode, Op, Risk
from agentd.policy.sql import Sql


@dataclass(frozen=True, slots=True)
class At:
    """A place in the file: line and column count from 1, `path` is `agents.bot.allow[0].operations`."""

    line: int
    column: int
    path: str


@dataclass(frozen=True, slots=True)
class TextAt:
    text: str
    at: At


class Language(enum.Enum):
    AEGIZE = "aegize"  # no `version:`
    AGENTD = "agentd"  # version: 1


class MatchKind(enum.Enum):
    """By what a process is recognised; the word of a policy."""

    SYSTEMD_UNIT = "systemd_unit"  # a glob over the unit's name
    CGROUP = "cgroup"  # a glob over the path below the cgroup root
    EXE = "exe"  # a glob over the resolved path of the executable
    USER = "user"  # a user name, or a uid in decimal
    ENV = "env"  # variables of the environment at exec; all of them
    LABEL = "label"  # labels of its container, as the engine that made it has them; all of them


@dataclass(frozen=True, slots=True)
class Match:
    """One way to recognise the processes of an agent. `env` is for MatchKind.ENV and LABEL."""

    kind: MatchKind
    text: str
    env: tuple[tuple[str, str], ...] = ()


OVERLAY_SECTION = "approved"  # only in an overlay: what people have approved for good; judged behind deny
SECTIONS = ("deny", "require_approval", "allow")  # in the order they are judged


@dataclass(frozen=True, slots=True)
class RuleSource:
    section: str
    index: int
    at: At
    tool: str
    operations: tuple[TextAt, ...] | None  # None: every operation
    paths: tuple[TextAt, ...] | None = None
    hosts: tuple[TextAt, ...] | None = None
    risk_max: Risk | None = None
    timeout: int | None = None  # seconds
    action: Action | None = None
    id: str | None = None
    approvers: int = 1  # different people who must say yes
    file: str = ""  # of an overlay; the policy's own otherwise


class TextKind(enum.Enum):
    """What an argument of a library's function points to."""

    STRING = "string"  # bytes up to a NUL
    BYTES = "bytes"  # as many bytes as another argument says


@dataclass(frozen=True, slots=True)
class CallPoint:
    """A function of a library, and where its caller has put the text. Arguments count from 1.

    length: the argument that holds the length; 0: none. signed: it is an `int`, and a negative one means up to the NUL.
    stream: the argument that tells streams apart, whose texts are looked through as one; 0: each text is by itself.
    ends: the functions that end a stream, whose first argument it is: what is told to it then is another's.
    usdt: it is no function but a probe that the library's authors have put there, `function` is PROVIDER:NAME.
    closing: it is one of `ends` itself, has no text and is not judged.
    """

    library: str
    function: str
    argument: int
    kind: TextKind
    length: int = 0
    signed: bool = False
    language: Sql = Sql.PLAIN
    stream: int = 0
    usdt: bool = False
    ends: tuple[str, ...] = ()
    closing: bool = False

    @property
    def closings(self) -> tuple[CallPoint, ...]:
        """The functions of `ends`."""
        return tuple(CallPoint(self.library, end, 1, TextKind.STRING, stream=1, closing=True) for end in self.ends)

    @property
    def word(self) -> str:
        """The object of the kernel operation `call`."""
        return f"{self.library}:{self.function}"


@dataclass(frozen=True, slots=True)
class EntrySource:
    """One entry of `tools:`: these objects of this kernel operation are this tool and operation."""

    tool: str
    operation: str
    op: Op
    patterns: tuple[TextAt, ...]
    args: tuple[TextAt, ...] | None  # only for Op.EXEC
    risk: Risk
    at: At
    calls: tuple[CallPoint, ...] = ()  # only for Op.CALL
    text: tuple[TextAt, ...] | None = None  # the same: patterns of which one must be in the text


@dataclass(frozen=True, slots=True)
class AgentSource:
    name: str
    at: At
    known: bool = True  # False: `name:` with nothing below it in an aegize document, which knows no such agent
    match: tuple[Match, ...] = ()
    workspace: TextAt | None = None
    mode: Mode = Mode.ENFORCE
    on_violation: Action = Action.DENY
    minimum_guarantee: Guarantee = Guarantee.NONE
    below_minimum: Action = Action.PAUSE
    strict_audit: bool = False
    calls_required: bool = False
    rules: tuple[RuleSource, ...] = ()  # deny, then require_approval, then allow


@dataclass(frozen=True, slots=True)
class PolicySource:
    file: str
    language: Language
    tools: tuple[EntrySource, ...]
    agents: tuple[AgentSource, ...]
