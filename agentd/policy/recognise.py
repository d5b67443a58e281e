"""Which agent a process is: the rules of `match:` in the order they are tried, for the kernel and for user space alike.

Besides those of the policy there are some that every service has under systemd: what runs in `agents-NAME.slice` is
agent NAME; what runs elsewhere below `agents.slice` may not run.

For the kernel the rules are the tables of an agent of their own, `(match)`, whose operations are the questions: read is
asked with the path of the cgroup, exec with that of the program, create with the same where the host's own mounts are
seen, ptrace with `uid:N`, write with `NAME=value`, and delete with the cgroup's path again: is it a container's, whose
labels decide? The number of the (tool, operation) in the answer is the rule's
(bpf/match.bpf.c).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from agentd.errors import AgentdError
from agentd.model import Guarantee, Mode, Op, Risk
from agentd.policy.ir import Match, MatchKind
from agentd.policy.patterns import Dialect, Glob, matches
from agentd.policy.resolved import Entry, ResolvedAgent, ResolvedPolicy

NAME: Final = "(match)"
MAX_RULES: Final = 400  # of the kernel's 512 numbers; the rest is for variables
MAX_VARIABLES: Final = 64
MAX_VARIABLE_BYTES: Final = 254  # NAME=value
SLICE: Final = "/agents.slice"
# agentd itself and PID 1.
OWN: Final = ("/init.scope", "/system.slice/agentd.service")
OWN_BELOW: Final = "/system.slice/system-agentd\\x2dcanary.slice"
# What systemd runs between itself and a unit's program: an agent's unit begins with the program it names. Only the
# host's own files: a container can have whatever it likes under these names.
EXECUTORS: Final = tuple(
    f"{folder}/systemd/{name}" for folder in ("/usr/lib", "/lib") for name in ("systemd-executor", "systemd")
)


# The cgroups that engines give to containers: Docker and Podman under systemd and not, a unit of Podman's that is
# split, containerd for Kubernetes, nerdctl. ID: 64 hexadecimal digits.
CONTAINERS: Final = (
    *("docker-ID.scope", "libpod-ID.scope", "libpod-ID", "libpod-payload-ID"),
    *("cri-containerd-ID.scope", "nerdctl-ID.scope", "ID"),
)
_CONTAINER: Final = re.compile("|".join(f"({re.escape(name).replace('ID', '([0-9a-f]{64})')})" for name in CONTAINERS))


@dataclass(frozen=True, slots=True)
class Recognition:
    """One rule. agent: "" where it is about none. Any of the kinds suffices, but of `variables` and `labels` all are
    needed.
    """

    agent: str
    why: str
    cgroups: tuple[str, ...] = ()
    executors: tuple[str, ...] = ()  # programs, but only the host's own
    programs: tuple[str, ...] = ()
    uid: int | None = None
    variables: tuple[bytes, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    refuse: bool = False

    @property
    def exempt(self) -> bool:
        """No agent, whatever comes behind."""
        return not self.agent and not self.refuse


# Whether a rule about labels decides is not known: nobody has said yet what the container's are.
UNTOLD: Final = Recognition("", "a container whose labels are not known")


@dataclass(frozen=True, slots=True)
class Looks:
    """What is known of a process. None: could not be read; of labels: it is in a container, and they are not known."""

    cgroup: bytes | None
    program: bytes | None
    uid: int
    environment: Callable[[], Iterable[bytes]]
    hosts_own: Callable[[], bool]  # is the program the file that the host has under this name?
    labels: Callable[[], Mapping[str, str] | None] = dict  # those of its container; empty: it is in none


def recognitions(
    policy: ResolvedPolicy, uid_of: Callable[[str], int | None], *, slices: bool
) -> tuple[Recognition, ...]:
    """The rules of a policy, in order. uid_of: a user's number. slices: also those for agents.slice.

    Empty if there is none. Raises AgentdError `policy-too-large`.
    """
    found = []
    if slices:  # before `match:`, as its unit says so; the longest name first: agents-a-b.slice lies in agents-a.slice
        for name in sorted(policy.agents, key=lambda name: (-len(name), name)):
            units = sorted({f"agents-{name}.slice", f"agents-{unit_name(name)}.slice"})
            places = [f"{SLICE}/**/{literal(unit)}" for unit in units]
            globs = tuple(glob for place in places for glob in (place, f"{place}/**"))
            found.append(Recognition(name, f"slice {units[-1]}", cgroups=globs))
    found += [_recognition(agent.name, match, uid_of) for agent in policy.agents.values() for match in agent.match]
    if slices:
        found.append(
            Recognition("", "agents.slice, and no agent of the policy", cgroups=(SLICE, f"{SLICE}/**"), refuse=True)
        )
    if not found:
        return ()
    own = (*map(literal, OWN), f"{literal(OWN_BELOW)}/**")
    found.insert(0, Recognition("", "not an agent", cgroups=own, executors=EXECUTORS))
    if len(found) > MAX_RULES:
        raise AgentdError("policy-too-large", "match", f"{len(found)} rules; at most {MAX_RULES}", "use globs")
    variables = variables_of(found)
    if len(variables) > MAX_VARIABLES:
        raise AgentdError(
            "policy-too-large", "match", f"{len(variables)} variables; at most {MAX_VARIABLES}", "use other kinds"
        )
    for variable in variables:
        if len(variable) > MAX_VARIABLE_BYTES:
            raise AgentdError(
                "policy-too-large", "match env", f"a variable is over {MAX_VARIABLE_BYTES} bytes", "use a shorter value"
            )
    return tuple(found)


def _recognition(agent: str, match: Match, uid_of: Callable[[str], int | None]) -> Recognition:
    why = f"match {match.kind.value} {match.text or dict(match.env)}"
    if match.kind is MatchKind.CGROUP:
        return Recognition(agent, why, cgroups=(match.text,))
    if match.kind is MatchKind.SYSTEMD_UNIT:
        return Recognition(agent, why, cgroups=(f"/**/{match.text}", f"/**/{match.text}/**"))
    if match.kind is MatchKind.EXE:
        return Recognition(agent, why, programs=(match.text,))
    if match.kind is MatchKind.USER:
        return Recognition(agent, why, uid=int(match.text) if match.text.isdigit() else uid_of(match.text))
    if match.kind is MatchKind.LABEL:
        return Recognition(agent, why, labels=match.env)
    variables = tuple(f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in match.env)
    return Recognition(agent, why, variables=variables)


def unit_name(text: str) -> str:
    """A name as part of a unit's name: systemd.unit(5), "String escaping", for what agents are called."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in ":_.") else
        "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
        for letter in text
    )  # fmt: skip


def literal(text: str) -> str:
    """A glob that matches exactly this."""
    return "".join(f"[{letter}]" if letter in "*?[" else "\\\\" if letter == "\\" else letter for letter in text)


def variables_of(rules: Iterable[Recognition]) -> tuple[bytes, ...]:
    """Every NAME=value that some rule looks at, once."""
    return tuple(dict.fromkeys(variable for rule in rules for variable in rule.variables))


def first(rules: Iterable[Recognition], looks: Looks) -> Recognition | None:
    """The rule that decides about a process; None: no rule matches; UNTOLD. What the kernel decides at an exec."""
    for rule in rules:
        if rule.labels:
            labels = looks.labels()
            if labels is None:
                return UNTOLD
            if says(labels, rule):
                return rule
        elif _matches(rule, looks):
            return rule
    return None


def says(labels: Mapping[str, str], rule: Recognition) -> bool:
    """Are all labels that a rule is about among these?"""
    return bool(rule.labels) and all(labels.get(name) == value for name, value in rule.labels)


def container(cgroup: bytes) -> tuple[str, str] | None:
    """(The id of the container whose processes are in a cgroup, the path of its own cgroup); None: of none. Of
    containers inside of a container the outermost: who made the others is one of its processes.
    """
    path = ""
    for part in cgroup.decode("utf-8", "surrogateescape").split("/")[1:]:
        path += f"/{part}"
        if found := _CONTAINER.fullmatch(part):
            return next(group for group in found.groups()[1::2] if group), path
    return None


def container_globs() -> tuple[str, ...]:
    """The cgroups for which container() finds one."""
    names = [f"/**/{name.replace('ID', '[0-9a-f]' * 64)}" for name in CONTAINERS]
    return tuple(glob for name in names for glob in (name, f"{name}/**"))


def _matches(rule: Recognition, looks: Looks) -> bool:
    if rule.uid is not None and rule.uid == looks.uid:
        return True
    if any(looks.cgroup is not None and matches(Glob(glob, Dialect.AGENTD), looks.cgroup) for glob in rule.cgroups):
        return True
    if any(looks.program is not None and matches(Glob(glob, Dialect.AGENTD), looks.program) for glob in rule.programs):
        return True
    if looks.program in {name.encode() for name in rule.executors} and looks.hosts_own():
        return True
    return bool(rule.variables) and set(rule.variables) <= set(looks.environment())


def agent_of(rules: tuple[Recognition, ...], donor: ResolvedAgent) -> ResolvedAgent:
    """The agent `(match)`. donor: any agent; its last entry for each operation stays, which matches everything."""
    globs: list[Glob] = list(donor.path_patterns)
    entries: list[Entry] = []
    toolops: list[tuple[str, str]] = []

    def ask(number: int, op: Op, texts: Iterable[str]) -> None:
        patterns = tuple(range(len(globs), len(globs) + len(tuple(texts))))
        globs.extend(Glob(text, Dialect.AGENTD) for text in texts)
        if patterns:
            entries.append(Entry(NAME, str(number), Risk.LOW, op, patterns, None, ""))

    variables = variables_of(rules)
    for number, rule in enumerate(rules):
        toolops.append((NAME, str(number)))
        ask(number, Op.READ, rule.cgroups)
        ask(number, Op.EXEC, rule.programs)
        ask(number, Op.CREATE, rule.executors)
        if rule.labels and not any(before.labels for before in rules[:number]):
            ask(number, Op.DELETE, container_globs())
        ask(number, Op.PTRACE, () if rule.uid is None else (f"uid:{rule.uid}",))
    for number, variable in enumerate(variables, len(rules)):
        toolops.append((NAME, str(number)))
        ask(number, Op.WRITE, (literal(variable.decode("utf-8", "surrogateescape")),))
    last = {entry.op: entry for entry in donor.entries}
    entries += last.values()
    toolops += dict.fromkeys((entry.tool, entry.operation) for entry in last.values())
    return dataclasses.replace(
        donor, name=NAME, mode=Mode.ENFORCE, minimum_guarantee=Guarantee.NONE, strict_audit=False, match=(), rules=(),
        fences=(), path_patterns=tuple(globs), arg_groups=(), entries=tuple(entries), toolops=tuple(toolops),
    )  # fmt: skip


def needs(rule: Recognition, variables: Mapping[bytes, int]) -> int:
    """The variables of a rule as bits."""
    return sum(1 << variables[variable] for variable in set(rule.variables))
