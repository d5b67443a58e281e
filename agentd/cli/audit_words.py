"""One record in sentences, for whoever reads a log without knowing agentd: who tried what, what became of it, and why.

What a record doesn't say is left out; nothing is concluded. Every value goes through `show`, which makes one visible
line of whatever a workload chose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Show = Callable[[Any], str]

DONE: Final = {
    "none": "It went on.",
    "deny": "The call failed with EPERM (operation not permitted).",
    "kill": "Its process was killed.",
    "pause": "It waits, and its process with it.",
}
WORTH: Final = {
    "prevented": "Prevented: it had no effect.",
    "contained": "Contained: the process could not use the effect.",
    "detected": "Detected: the effect of this one call may have come about.",
}
HELD: Final = {
    "prevented": "It was held before it had an effect",
    "contained": "It was held before its process could use the effect",
    "detected": "It was held when the effect of this one call may have come about",
}
ENDS: Final = {"approved": "approved", "approval_denied": "denied", "approval_expired": "not answered in time"}
SCOPES: Final = {
    "once": "once",
    "process": "for this process",
    "workload": "until the workload ends",
    "time": "for a time",
}


def in_words(record: Mapping[str, Any], show: Show) -> str:
    """What the record says."""
    event = str(record.get("event"))
    said = record.get("metadata")
    metadata: Mapping[str, Any] = said if isinstance(said, dict) else {}
    if event in ENDS:
        return " ".join(_answer(event, record, metadata, show))
    if event == "approval_required":
        held = HELD.get(str(record.get("guarantee")), "It was held")
        why = f"{held}, because rule {show(record.get('rule'))} wants a person to approve it"
        return f"{_tried(record, show)} {why} (approval {show(metadata.get('approval'))})."
    if event == "denied" and record.get("kernel_operation"):
        done = DONE.get(str(record.get("action")), "")
        return " ".join(filter(None, (_tried(record, show), _because(record, show), done, _worth(record))))
    if event == "allowed" and record.get("count") is not None:
        times = "once" if record["count"] == 1 else f"{show(record['count'])} times"
        allowed = record.get("decision") == "allow"
        why = _because(record, show) if allowed else f"Why: {show(record.get('reason'))}."
        return f"{_who(record, show)} did this {times}: {_what(record, show)}. {why}"
    return show(record.get("reason"))


def _who(record: Mapping[str, Any], show: Show) -> str:
    process = record.get("process")
    agent = f"Agent {show(record.get('agent_id'))}"
    if not isinstance(process, dict) or process.get("pid") is None:
        return agent
    return (
        f"{agent} (process {show(process['pid'])}, program {show(process.get('exe'))}, user {show(process.get('uid'))})"
    )


def _what(record: Mapping[str, Any], show: Show) -> str:
    named = f"{show(record.get('tool_name'))}/{show(record.get('operation'))}"
    return f"{show(record.get('input_summary'))} [{named} in the policy]"


def _tried(record: Mapping[str, Any], show: Show) -> str:
    return f"{_who(record, show)} tried this: {_what(record, show)}."


def _because(record: Mapping[str, Any], show: Show) -> str:
    rule = record.get("rule")
    decided = "allows" if record.get("decision") == "allow" else "denies"
    if rule == "default-deny":
        return "No rule allows it, and what no rule allows is denied."
    return f"Rule {show(rule)} {decided} it." if rule else f"Why: {show(record.get('reason'))}."


def _worth(record: Mapping[str, Any]) -> str:
    return WORTH.get(str(record.get("guarantee")), "")


def _answer(event: str, record: Mapping[str, Any], metadata: Mapping[str, Any], show: Show) -> list[str]:
    by = metadata.get("by")
    question = f"approval {show(metadata['approval'])}" if metadata.get("approval") is not None else "a standing answer"
    waited = metadata.get("waited_ms")
    after = f" after {waited / 1000:.1f} s" if isinstance(waited, int) else ""
    outcome = f"{show(by)} {ENDS[event]} it" if by else f"It was {ENDS[event]}"
    scope = SCOPES.get(str(metadata.get("scope")))
    found = [f"{_who(record, show)} had tried this: {_what(record, show)}.", f"{outcome}{after} ({question})"]
    found[1] += f", {scope}." if scope and by else "."
    reason = str(record.get("reason") or "")
    if reason and not reason.startswith(("approved by", "denied by")):
        found.append(f"Reason given: {show(reason)}.")
    found.append("The operation went on then." if event == "approved" else _worth(record))
    return [sentence for sentence in found if sentence]
