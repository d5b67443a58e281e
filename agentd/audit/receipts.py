"""What is signed: a receipt for each denial, hold and answer, a Merkle root for everything, and where the log ends.

A **receipt** has the members of Aegis's receipt v1 and is signed for itself, so that it can be shown without the log:

    version 1   execution_id and request_id: the action_id   tenant_id: the host   agent_id   tool
    action: the operation   decision, reason, timestamp   event_hash, prev_hash: the record's   chain_shard 0

A **root** stands for all records since the last one, those that have receipts included. It is the record right after
them, with the event `signed`; its metadata is the payload below, `signature` over that payload, and `receipts`. A leaf
(merkle.py) is the 64 digits of a record's hash.

    version "agentd-root/1"   log: hash of the log's first record   from, through: seq of the first and the last leaf
    root   previous_root: of the root before (64 zeros if none)   head: hash of record `through`   time   key: kid

The **head** is a file beside the log: how far the log is known to go. Whoever cuts records off the end has to forge it.

    version "agentd-head/1"   log   record: seq   head: its hash   closed: did agentd end there?   time   key

All of it is signed over compact JSON with sorted keys in UTF-8, and the signatures are base64url without padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentd.audit.chain import GENESIS, Link

RECEIPT_VERSION: Final = 1
ROOT_VERSION: Final = "agentd-root/1"
HEAD_VERSION: Final = "agentd-head/1"
# The events that get a receipt of their own.
RECEIPT_EVENTS: Final = frozenset(
    {
        *("denied", "approval_required", "approval_vote", "approved", "approval_denied", "approval_expired"),
        *("approval_revoked",),
    }
)
ROOT_MEMBERS: Final = frozenset({"version", "log", "from", "through", "root", "previous_root", "head", "time", "key"})
HEAD_MEMBERS: Final = frozenset({"version", "log", "record", "head", "closed", "time", "key"})

Payload = dict[str, Any]


def receipt(record: Mapping[str, Any], event_hash: str, prev_hash: str, shard: int = 0) -> Payload:
    """The receipt of a record, given as the JSON object that it is in the log."""
    return {
        "version": RECEIPT_VERSION,
        "execution_id": record["action_id"],
        "tenant_id": record["host"],
        "agent_id": record["agent_id"],
        "tool": record["tool_name"],
        "action": record["operation"] or record["event"],
        "decision": record["decision"],
        "reason": record["reason"],
        "request_id": record["action_id"],
        "timestamp": record["timestamp"],
        "event_hash": event_hash,
        "prev_hash": prev_hash,
        "chain_shard": shard,
    }


def root(log: str, first: int, end: Link, tree_root: str, previous: str, time: str, kid: str) -> Payload:
    """The payload of a root over the records `first` to `end`."""
    return {
        "version": ROOT_VERSION, "log": log, "from": first, "through": end.seq, "root": tree_root,
        "previous_root": previous or GENESIS, "head": end.hash, "time": time, "key": kid,
    }  # fmt: skip


def head(log: str, end: Link, closed: bool, time: str, kid: str) -> Payload:
    """The payload of the head file."""
    return {
        "version": HEAD_VERSION, "log": log, "record": end.seq, "head": end.hash, "closed": closed, "time": time,
        "key": kid,
    }  # fmt: skip
