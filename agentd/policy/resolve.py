"""Typed source + the shipped catalogue -> resolved agents.

`load` is the one way in for every caller: it returns a policy that is right in every part, or raises with all that is
wrong with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from agentd.errors import AgentdError
from agentd.policy import source
from agentd.policy.advice import advise
from agentd.policy.builder import AgentBuilder
from agentd.policy.guard import NOTHING, Guarded
from agentd.policy.ir import AgentSource, At, Language, PolicySource
from agentd.policy.layers import Document, JoinedProblems, Part, join, read_parts
from agentd.policy.named import check_names
from agentd.policy.overlay import parse_overlay
from agentd.policy.parse import parse_policy
from agentd.policy.problem import PolicyError, Problem, Problems, in_order
from agentd.policy.reader import shown
from agentd.policy.resolved import (
    DEFAULT_TIMEOUT,
    RULE_DEFAULT,
    RULE_UNRESOLVED,
    Entry,
    Outcome,
    ResolvedAgent,
    ResolvedPolicy,
    Rule,
)
from agentd.policy.shipped import shipped_catalogue
from agentd.policy.tighter import require_tighter

__all__ = [
    "DEFAULT_TIMEOUT",
    "RULE_DEFAULT",
    "RULE_UNRESOLVED",
    "Entry",
    "Language",
    "Outcome",
    "ResolvedAgent",
    "ResolvedPolicy",
    "Rule",
    "load",
    "load_text",
    "shipped_catalogue",
]


def load(
    policy: source.FilePath | bytes,
    *,
    workspace: str,
    overlay: Overlay | None = None,
    environment: str = "",
    guarded: Guarded = NOTHING,
) -> ResolvedPolicy:
    """The policy in a file, a folder of files (layers.py) or bytes, resolved against the shipped catalogue.

    workspace: the absolute path that anchors the relative paths of agents that name no workspace of their own.
    overlay: rules that people have approved since (overlay.py). environment: the folder of files that tighten it.
    guarded: agentd's own files.
    Raises PolicyError with every mistake of the files; its exit code is 2 when one can't be read.
    """
    if isinstance(policy, bytes):
        return load_text(policy, "policy.yaml", workspace=workspace, overlay=overlay, guarded=guarded)
    files = source.files_of(policy, environment)
    documents = [Document(source.read_file(file), str(file), environment=extra) for file, extra in files]
    if len(documents) == 1:
        only = documents[0]
        return load_text(only.data, only.file, workspace=workspace, overlay=overlay, guarded=guarded)
    return _load_documents(documents, str(policy), _anchor(workspace), overlay, guarded)


def load_text(
    data: bytes, file: str, *, workspace: str, overlay: Overlay | None = None, guarded: Guarded = NOTHING
) -> ResolvedPolicy:
    """As `load`, for bytes already read; `file` is the name that messages show."""
    workspace = _anchor(workspace)
    problems = Problems(file)
    node = source.parse(data, problems)
    if node is None:
        if not problems.errors:
            problems.error(0, 0, "", "the file is empty", "write `agents:` with one entry for each agent")
        problems.raise_errors()
        raise AssertionError("unreachable")
    return _resolve(node, data, problems, file, workspace, overlay, guarded)


def _load_documents(
    documents: Sequence[Document], name: str, workspace: str, overlay: Overlay | None, guarded: Guarded
) -> ResolvedPolicy:
    files = [document.file for document in documents]
    problems = JoinedProblems(name, files=files)
    parts = read_parts(documents, problems)
    problems.raise_errors()
    for end, part in enumerate(parts):
        if part.document.environment and not part.loosens:
            before, after = (_joined(parts[:stop], files, name, workspace, None, NOTHING) for stop in (end, end + 1))
            require_tighter(before, after, part.document.file)
    return _joined(parts, files, name, workspace, overlay, guarded)


def _joined(
    parts: Sequence[Part], files: Sequence[str], name: str, workspace: str, overlay: Overlay | None, guarded: Guarded
) -> ResolvedPolicy:
    problems = JoinedProblems(name, files=files)
    if not parts:
        raise PolicyError([Problem(name, 0, 0, "", "every file is empty", "write `agents:` in one")])
    data = b"".join(hashlib.sha256(part.document.data).digest() for part in parts)
    return _resolve(join(parts, problems), data, problems, name, workspace, overlay, guarded)


def _anchor(workspace: str) -> str:
    if not workspace.startswith("/") or "\0" in workspace:
        raise AgentdError("usage", "workspace", f"{shown(workspace)} is not an absolute path", "start it with /")
    return posixpath.normpath(workspace)


def _resolve(
    node: source.Node, data: bytes, problems: Problems, file: str, workspace: str, overlay: Overlay | None,
    guarded: Guarded,
) -> ResolvedPolicy:  # fmt: skip
    parsed = parse_policy(node, problems)
    if overlay is not None:
        parsed = _with_overlay(parsed, overlay)
        data += b"\0" + overlay.data
    catalogue = shipped_catalogue()
    builders = [
        AgentBuilder(agent, parsed, catalogue, workspace, problems, guarded) for agent in parsed.agents if agent.known
    ]
    if not builders:  # the tools are still to be checked
        nobody = AgentSource("", At(0, 0, "agents"))
        AgentBuilder(nobody, parsed, catalogue, workspace, problems, guarded)
    if not problems.errors:
        check_names(parsed, problems)
    if not problems.errors:
        advise(parsed, catalogue.entries, problems)
    problems.raise_errors()
    return ResolvedPolicy(
        MappingProxyType({builder.agent.name: builder.build() for builder in builders}),
        hashlib.sha256(data + b"\0" + catalogue.data).hexdigest(),
        file,
        parsed.language,
        in_order(problems.warnings),
    )


@dataclass(frozen=True, slots=True)
class Overlay:
    """The bytes of an overlay; `file` is the name that messages show."""

    data: bytes
    file: str


def _with_overlay(policy: PolicySource, overlay: Overlay) -> PolicySource:
    """The policy with the overlay's rules of the agents that it names. Raises PolicyError."""
    problems = Problems(overlay.file)
    node = source.parse(overlay.data, problems)
    rules = parse_overlay(node, problems) if node is not None else {}
    if rules and policy.language is not Language.AGENTD:
        problems.error(
            0, 0, "", "an aegize policy has no overlay", "add `version: 1` to the policy, or remove this file"
        )
    problems.raise_errors()
    agents = []
    for agent in policy.agents:
        first = [rule for rule in agent.rules if rule.section == "deny"]
        later = [rule for rule in agent.rules if rule.section != "deny"]
        agents.append(dataclasses.replace(agent, rules=(*first, *rules.get(agent.name, ()), *later)))
    return dataclasses.replace(policy, agents=tuple(agents))
