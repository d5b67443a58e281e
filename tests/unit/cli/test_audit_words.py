"""`agentd audit show` says in words what a record holds, and claims no more than it says."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.cli.audit import text
from agentd.cli.audit_words import in_words

BASE: dict[str, Any] = {
    "agent_id": "bot", "tool_name": "email", "operation": "send", "input_summary": "connect 10.0.0.1:25/tcp",
    "kernel_operation": "connect", "rule": "bot/deny/0", "decision": "deny", "action": "deny", "guarantee": "prevented",
    "process": {"pid": 7, "exe": "/bin/x", "uid": 1000}, "reason": "denied by rule", "metadata": {},
}  # fmt: skip
WHO = "Agent bot (process 7, program /bin/x, user 1000)"
WHAT = "connect 10.0.0.1:25/tcp [email/send in the policy]."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"event": "denied"}, "Rule bot/deny/0 denies it. The call failed with EPERM (operation not permitted). "),
        ({"event": "denied", "rule": "default-deny"}, "No rule allows it"),
        ({"event": "denied", "action": "kill", "guarantee": "detected"}, "Detected: the effect of this one call may"),
        ({"event": "approval_required", "metadata": {"approval": "3"}}, "held before it had an effect, because rule"),
        ({"event": "approval_required", "guarantee": "detected", "metadata": {}}, "may have come about, because rule"),
        (
            {"event": "approved", "reason": "approved by ann",
             "metadata": {"approval": "3", "by": "ann", "waited_ms": 1500, "scope": "workload"}},
            "ann approved it after 1.5 s (approval 3), until the workload ends. The operation went on then.",
        ),
        (
            {"event": "approval_denied", "reason": "not now", "guarantee": "contained", "metadata": {"by": "ann"}},
            "ann denied it (a standing answer). Reason given: not now. Contained: the process could not use the",
        ),
        ({"event": "approval_expired", "reason": "nobody answered in time (deny)"}, "It was not answered in time"),
    ],
)  # fmt: skip
def test_a_record_in_words(changes: dict[str, Any], said: str) -> None:
    """Who, what in both vocabularies, by which rule, what was done, and what that is worth: nothing stronger."""
    words = in_words({**BASE, **changes}, text)
    assert words.startswith(WHO) and WHAT in words and said in words


def test_counts_and_notes_in_words() -> None:
    """A summary says how often; a record about agentd itself says its reason."""
    counted = {**BASE, "event": "allowed", "decision": "allow", "rule": "bot/allow/1", "count": 12, "process": None}
    assert in_words(counted, text) == f"Agent bot did this 12 times: {WHAT} Rule bot/allow/1 allows it."
    assert in_words({"event": "gap", "reason": "7 events\nlost"}, text) == "7 events\\nlost"


@pytest.mark.parametrize("event", ["denied", "approved", "approval_required", "allowed", "x", None])
def test_a_damaged_record_is_no_traceback(event: object) -> None:
    """Whatever is missing or of another type, there is a line without control characters."""
    for value in (5, {"b64": "!"}, ["\x1b[2J"]):
        assert in_words({**dict.fromkeys(BASE, value), "event": event}, text).isprintable()
    assert in_words({"event": event}, text).isprintable()
