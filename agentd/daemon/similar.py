"""`and similar`: rules that a person may approve for good, what they would have matched, and the overlay they go to.

The overlay is a document of its own beside the policy (agentd/policy/overlay.py), so the policy stays what its author
wrote. It is JSON, which is YAML; it is only ever replaced as a whole, by a rule that somebody has confirmed having seen
it, and where the policy does not take the result nothing changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentd.audit import files, many, reader
from agentd.audit.record import object_from_json
from agentd.daemon.loop import SLICE_SECONDS
from agentd.daemon.peers import Peer
from agentd.engine.records import object_of, summary_of
from agentd.errors import AgentdError
from agentd.policy.ir import OVERLAY_SECTION
from agentd.policy.resolve import Overlay
from agentd.policy.similar import Proposal, proposals

if TYPE_CHECKING:
    from agentd.daemon.server import Params, Server

PAST: Final = 20_000  # records of the agent that a preview reads back, through all files of the log
PAST_BYTES: Final = 256 << 20  # and no more of the log: seconds, not minutes, for an agent that is rarely heard of
OVERLAY_MAX: Final = 1 << 20


def read_overlay(path: Path) -> Overlay | None:
    """The overlay, if there is one. Raises AgentdError `config-invalid` when others could have written it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AgentdError("config-invalid", str(path), (error.strerror or str(error)).lower()) from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            hint = f"look at it, then chown root {path}; chmod 600 {path}"
            raise AgentdError("config-invalid", str(path), "others could have written it", hint)
        return Overlay(file.read(OVERLAY_MAX), str(path))


async def similar(server: Server, peer: Peer, params: Params) -> Any:
    """approvals.similar: the proposals for an approval, each with what it would have matched in the log."""
    server.engine.pump(SLICE_SECONDS)
    made = _proposals(server, params.text("id"))
    agent = server.engine.questions.book.get(params.text("id")).agent
    counts, read = await asyncio.to_thread(_matched, server.engine.audit.path, agent, made)
    return {
        "id": params.text("id"),
        "records_read": read,
        "proposals": [
            {
                "number": number,
                "rule": proposal.rule(),
                "words": proposal.words,
                "digest": _digest(proposal),
                "would_have_matched": dict(count),
            }
            for number, (proposal, count) in enumerate(zip(made, counts, strict=True), 1)
        ],
    }


def confirm(server: Server, peer: Peer, params: Params) -> Any:
    """approvals.confirm: writes a proposal to the overlay, puts it in force, and approves the operation.

    digest: of the proposal as it was shown, so that nothing else is confirmed.
    """
    server.refuse_shared_terminal(peer)
    server.engine.pump(SLICE_SECONDS)
    if server.overlay is None or server.reload is None or server.try_overlay is None:
        raise AgentdError(
            "service-refused", "similar", "agentd run has one policy for its whole life", "approve --for workload"
        )
    pending = server.engine.questions.book.get(params.text("id"))
    if pending.approvers > 1:
        why = f"its rule wants {pending.approvers} approvers each time"
        raise AgentdError("usage", f"approval {pending.id}", why, "approve it once")
    digest = params.text("digest")
    chosen = next((one for one in _proposals(server, pending.id) if _digest(one) == digest), None)
    if chosen is None:
        raise AgentdError("usage", "parameter digest", "no proposal has it", "ask approvals.similar again")
    by = peer.approver()
    overlay = _with(server.overlay, pending.agent, chosen, f"approved-{pending.id}-{digest[:8]}")
    server.try_overlay(Overlay(overlay, str(server.overlay)))  # refused: nothing has changed
    try:
        files.replace(server.overlay, overlay)
    except OSError as error:
        why = f"not written: {(error.strerror or str(error)).lower()}"
        raise AgentdError("config-invalid", str(server.overlay), why, "make room on the disk") from error
    rule = json.dumps(chosen.rule())
    reason = params.text("reason", "")[:500]
    result = server.engine.questions.answer(
        pending.id, True, by, f"{reason or f'approved by {by}'}, and similar from now on: {rule}"
    )
    server.reload()
    return {**result, "rule": chosen.rule(), "overlay": str(server.overlay)}


def _proposals(server: Server, number: str) -> Sequence[Proposal]:
    pending = server.engine.questions.book.get(number)
    event, names = pending.detail.event, pending.detail.names
    target = object_of(event.op, event.object, event.flags)
    made = proposals(event.op, names.tool, names.operation, target)
    if not made:
        raise AgentdError(
            "usage", f"approval {number}", f"no rule can be made of {summary_of(event)}", "approve --for workload"
        )
    return made


def _digest(proposal: Proposal) -> str:
    return hashlib.sha256(json.dumps(proposal.rule(), sort_keys=True).encode()).hexdigest()


def _with(path: Path, agent: str, chosen: Proposal, rule_id: str) -> bytes:
    """The overlay with one rule more."""
    before = read_overlay(path)
    try:
        document: dict[str, Any] = json.loads(before.data) if before else {"version": 1, "agents": {}}
        rules = document["agents"].setdefault(agent, {}).setdefault(OVERLAY_SECTION, [])
        if all({**rule, "id": None} != {**chosen.rule(), "id": None} for rule in rules):
            rules.append({**chosen.rule(), "id": rule_id})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AgentdError(
            "config-invalid", str(path), "not in the form that agentd writes (JSON)", "add the rule by hand"
        ) from None
    return json.dumps(document, indent=2).encode() + b"\n"


def _matched(path: Path, agent: str, made: Sequence[Proposal]) -> tuple[list[Counter[str]], int]:
    """How many operations of the log each proposal covers, by what became of them; how many records were read."""
    records, _ = reader.last(path, PAST, reader.Filter(agent=agent), PAST_BYTES)
    counts: list[Counter[str]] = [Counter() for _ in made]
    words = {"approval_required": "asked", "denied": "denied", "allowed": "allowed"}
    for record in many.singles(records):
        word = words.get(str(record.get("event")))
        target = object_from_json(record.get("object"))
        if word is None or target is None or record.get("reason") == "approved, and carried out":
            continue
        tool, operation = str(record.get("tool_name")), str(record.get("operation"))
        count = record.get("count")
        for proposal, found in zip(made, counts, strict=True):
            if proposal.covers(tool, operation, target):
                found[word] += count if isinstance(count, int) else 1
    return counts, len(records)
