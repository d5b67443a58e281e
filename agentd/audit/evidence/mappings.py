"""Which controls of which framework a record is evidence for.

EU AI Act: Regulation (EU) 2024/1689. SOC 2: Trust Services Criteria 2017. NIST: AI RMF 1.0. DPDP: India's Act of 2023.
Only what a record shows by itself is claimed: that something was logged, kept from happening, or put to a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentd.audit import receipts

ANSWERS: Final = receipts.RECEIPT_EVENTS - {"denied"}
NETWORK: Final = frozenset({"connect", "bind", "send", "listen", "accept", "socket", "unix_connect"})

_ALWAYS: Final = {
    "eu_ai_act": ("Article 12 (record-keeping)", "Article 19 (automatically generated logs)"),
    "soc2": ("CC7.2 (monitoring for anomalies)",),
    "nist_ai_rmf": ("MEASURE 2.4 (behaviour monitored in production)",),
    "dpdp": (),
}
_OPERATION: Final = {
    "eu_ai_act": ("Article 26(5) (monitoring by the deployer)",),
    "soc2": ("CC6.1 (logical access)",),
    "nist_ai_rmf": (),
    "dpdp": ("Section 8(5) (security safeguards)",),
}
_DENIAL: Final = {
    "eu_ai_act": ("Article 15 (robustness and cybersecurity)", "Article 72 (post-market monitoring)"),
    "soc2": ("CC7.3 (evaluation of security events)",),
    "nist_ai_rmf": ("MEASURE 2.7 (security and resilience)", "MANAGE 2.4 (disengaging what acts against its purpose)"),
    "dpdp": (),
}
_OVERSIGHT: Final = {
    "eu_ai_act": ("Article 14 (human oversight)", "Article 26(2) (human oversight by the deployer)"),
    "soc2": ("CC6.3 (authorization of access)",),
    "nist_ai_rmf": ("GOVERN 3.2 (roles of people who oversee)", "MAP 3.5 (human oversight)"),
    "dpdp": (),
}
_RULES: Final = {
    "eu_ai_act": ("Article 9 (risk management)",),
    "soc2": ("CC8.1 (change management)",),
    "nist_ai_rmf": ("GOVERN 1.4 (risk management by policies)",),
    "dpdp": (),
}
_LOSS: Final = {
    "eu_ai_act": (),
    "soc2": ("CC7.3 (evaluation of security events)",),
    "nist_ai_rmf": ("MANAGE 4.3 (incidents and errors are told)",),
    "dpdp": (),
}


def of(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """The controls, by framework, for a record of the log."""
    event = record["event"]
    sets = [_ALWAYS]
    if record["kernel_operation"] is not None:
        sets.append(_OPERATION)
    if event == "denied":
        sets.append(_DENIAL)
    if event in ANSWERS:
        sets.append(_OVERSIGHT)
    if event in ("policy_loaded", "policy_rejected"):
        sets.append(_RULES)
    if event in ("gap", "log_repaired"):
        sets.append(_LOSS)
    found = {framework: [item for one in sets for item in one[framework]] for framework in _ALWAYS}
    if event == "denied" and record["kernel_operation"] in NETWORK:
        found["soc2"].append("CC6.6 (threats from outside the boundary)")
    if event == "denied" and record["kernel_operation"] == "exec":
        found["soc2"].append("CC6.8 (unauthorized software)")
    return found
