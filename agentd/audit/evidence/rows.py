"""The parts of an Aegis evidence bundle (`aegis-evidence-bundle/2026-06`), made the same way by export and check.

A row is made from a record of the log and from nothing else, and carries that record whole (`metadata_json`), so it can
be made again by whoever has it. `id` is the record's seq in 16 digits; rows are in the order of (timestamp, id). The
chain of a bundle begins in each of its 16 shards with 64 zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from agentd.audit import keys, merkle

FORMAT: Final = "aegis-evidence-bundle/2026-06"
SHARDS: Final = 16
ID_DIGITS: Final = 16
FRAMEWORKS: Final = ("eu-ai-act", "soc2", "nist-ai-rmf", "dpdp")
ROOT_KIND: Final = "agentd_daily_root"
STATEMENT_KIND: Final = "agentd_bundle_statement"

Json = dict[str, Any]

# An answer's outcome, where the rule's decision (require_approval) would not tell.
_OUTCOMES: Final = {"approved": "allow", "approval_denied": "deny", "approval_expired": "deny"}


def shard_of(request_id: str) -> int:
    """The chain that a row belongs to."""
    return int.from_bytes(hashlib.md5(request_id.encode(), usedforsecurity=False).digest()[:2], "big") % SHARDS


def row_of(record: Mapping[str, Any]) -> Json:
    """The row of a record, less its place in the chain."""
    return {
        "id": f"{record['seq']:0{ID_DIGITS}d}",
        "tenant_id": record["host"],
        "agent_id": record["agent_id"],
        "action": record["operation"] or record["event"],
        "tool": record["tool_name"],
        "decision": _OUTCOMES.get(record["event"], record["decision"]),
        "reason": record["reason"],
        "request_id": record["action_id"],
        "timestamp": record["timestamp"],
        "chain_shard": shard_of(record["action_id"]),
        "metadata_json": dict(record),
    }


def event_hash(row: Mapping[str, Any], prev_hash: str) -> str:
    """The hash of a row: six members, with the separators that Python writes by default."""
    names = ("tenant_id", "agent_id", "action", "tool", "decision", "request_id")
    text = json.dumps({name: str(row[name] or "") for name in names}, sort_keys=True)
    return hashlib.sha256(f"{prev_hash}{text}".encode()).hexdigest()


def receipt_of(row: Mapping[str, Any]) -> Json:
    """Receipt v1 of a row that has its place in the chain."""
    return {
        "version": 1,
        "execution_id": row["id"],
        **{name: row[name] for name in ("tenant_id", "agent_id", "tool", "action", "decision", "reason", "request_id")},
        **{name: row[name] for name in ("timestamp", "event_hash", "prev_hash", "chain_shard")},
    }


class Day:
    """What the root of a day is made of, row by row: the tree over the receipts, and a digest of the whole records,
    which the six members of event_hash are only a part of.
    """

    def __init__(self, date: str) -> None:
        self.date = date
        self.count = 0
        self.first = self.last = ""
        self._tree = merkle.Tree()
        self._records = hashlib.sha256()

    def add(self, row: Mapping[str, Any], receipt: bytes, text: bytes) -> None:
        """A row, its receipt and the record that it is in, both as they are signed."""
        self._tree.add(receipt)
        self._records.update(text + b"\n")
        self.count += 1
        self.first = self.first or str(row["id"])
        self.last = str(row["id"])

    def payload(self, tenant: str, previous: str | None, kid: str) -> Json:
        """What is signed for these rows; once. previous: the hash of the root before."""
        return {
            "kind": ROOT_KIND, "version": 2, "merkle_version": 2, "tenant_id": tenant, "root_date": self.date,
            "root_hash": self._tree.root(), "leaf_count": self.count, "leaf_range_start_id": self.first,
            "leaf_range_end_id": self.last, "prev_root_hash": previous, "kid": kid,
            "records_sha256": self._records.hexdigest(),
        }  # fmt: skip


def digest_of(rest: Mapping[str, Any], records: str) -> str:
    """SHA-256 over a bundle without its statement: the members beside the records, and the digest of the records."""
    digest = hashlib.sha256(keys.canonical(rest) + b"\n")
    digest.update(records.encode())
    return digest.hexdigest()
