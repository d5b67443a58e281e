"""The parts of an Aegis evidence bundle (`aegis-evidence-bundle/2026-06`), made the same way by export and check.

A row is made from a record of the log and from nothing else, and carries that record whole (`metadata_json`), so it can
be made again by whoever has it. `id` is the record's seq in 16 digits; rows are in the order of (timestamp, id). The
chain of a bundle begins in each of its 16 shards with 64 zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
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


def root_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """The Merkle root (RFC 6962) over the receipts of these rows."""
    return merkle.root_of(keys.canonical(receipt_of(row)) for row in rows)


def records_digest(records: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over whole records of a bundle, which the six members of event_hash are only a part of."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(keys.canonical(record) + b"\n")
    return digest.hexdigest()


def bundle_digest(bundle: Mapping[str, Any]) -> str:
    """SHA-256 over everything but the statement itself and its signature."""
    rest = {name: value for name, value in bundle.items() if name not in ("records", "producer_metadata")}
    own = bundle["producer_metadata"]
    rest["producer_metadata"] = {name: own[name] for name in own if name not in ("statement", "signature")}
    return digest_of(rest, records_digest(bundle["records"]))


def digest_of(rest: Mapping[str, Any], records: str) -> str:
    """The same from the other members, and the digest of the records."""
    digest = hashlib.sha256(keys.canonical(rest) + b"\n")
    digest.update(records.encode())
    return digest.hexdigest()


def root_payload(
    tenant: str, date: str, root_hash: str, ends: tuple[int, str, str], previous: str | None, kid: str, digest: str
) -> Json:  # fmt: skip
    """What is signed for the rows of one day. ends: how many, and the ids of the first and the last one."""
    return {
        "kind": ROOT_KIND, "version": 2, "merkle_version": 2, "tenant_id": tenant, "root_date": date,
        "root_hash": root_hash, "leaf_count": ends[0], "leaf_range_start_id": ends[1],
        "leaf_range_end_id": ends[2], "prev_root_hash": previous, "kid": kid, "records_sha256": digest,
    }  # fmt: skip
