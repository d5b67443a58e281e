"""Makes an Aegis evidence bundle of records of the log, signed with the host's key.

The rows are chained and signed when the bundle is made. That they are the log's is the word of the exporter, which
has verified the log before; the proof of it are the log's own signatures, kept with the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agentd.audit import keys
from agentd.audit.chain import GENESIS
from agentd.audit.evidence import mappings, rows
from agentd.audit.evidence.rows import Json
from agentd.audit.keys import SigningKey, Statement
from agentd.errors import AgentdError

RECIPE = {
    "tool": "aegis-verify",
    "install": "pip install aegis-aevf",
    "run": "python -m aegis_verify --bundle FILE",
    "strict": "agentd audit verify FILE --key signing.pub, which also binds the rows to what was signed, and to a key",
}


def build(
    records: Iterable[Mapping[str, Any]],
    key: SigningKey,
    *,
    framework: str,
    period: tuple[str | None, str | None],
    generated_at: str,
    log: str,
    selected: Mapping[str, str],
    rotations: list[Statement],
    retention_days: int | None,
) -> Json:
    """The bundle. period: its start and end in RFC 3339, None: those of the rows; log: the log's name; selected: by
    which filters; retention_days: how long records are kept, None: without limit.

    Raises AgentdError usage if there is nothing to put in, or rows of two hosts.
    """
    made: list[Json] = []
    ends = [GENESIS] * rows.SHARDS
    for record in sorted(records, key=lambda item: (item["timestamp"], item["seq"])):
        row = rows.row_of(record)
        shard = row["chain_shard"]
        row["prev_hash"] = ends[shard]
        row["event_hash"] = ends[shard] = rows.event_hash(row, ends[shard])
        made.append(
            {
                "audit_row": row,
                "mappings": mappings.of(record),
                "merkle_root_date": row["timestamp"][:10],
                "receipt": {"signature": key.sign(keys.canonical(rows.receipt_of(row))), "kid": key.kid},
            }
        )
    if not made:
        raise AgentdError("usage", "export", "no record matches, and an empty bundle proves nothing", exit_code=2)
    tenants = {item["audit_row"]["tenant_id"] for item in made}
    if len(tenants) > 1:
        why = f"the records name several hosts ({', '.join(sorted(tenants))})"
        raise AgentdError("usage", "export", why, "choose a period with --since and --until", exit_code=2)
    tenant = tenants.pop()
    first, last = made[0]["audit_row"], made[-1]["audit_row"]
    numbers = [item["audit_row"]["metadata_json"]["seq"] for item in made]
    roots = _roots(made, tenant, key)
    bundle: Json = {
        "format_version": rows.FORMAT,
        "framework": framework,
        "tenant_id": tenant,
        "period": {"start": period[0] or first["timestamp"], "end": period[1] or last["timestamp"]},
        "generated_at": generated_at,
        "public_keys": [_public(key, rotations)],
        "merkle_roots": roots,
        "records": made,
        "retention_metadata": {
            "policy": "kept without limit" if retention_days is None else f"kept for {retention_days} days",
            "configured_retention_days": retention_days,
            "earliest_row_in_bundle": first["timestamp"],
            "latest_row_in_bundle": last["timestamp"],
        },
        "verifier_recipe": dict(RECIPE),
        "producer_metadata": {"producer": "agentd", "rotations": rotations},
    }
    statement = {
        "kind": rows.STATEMENT_KIND, "version": 1, "kid": key.kid, "log": log, "selected": dict(selected),
        "from": min(numbers), "through": max(numbers), "records": len(made), "roots": len(roots),
        "last_root_hash": roots[-1]["root_hash"], "bundle_sha256": rows.bundle_digest(bundle),
    }  # fmt: skip
    data = keys.canonical(statement)
    bundle["producer_metadata"] |= {"statement": data.decode(), "signature": key.sign(data)}
    return bundle


def _roots(made: list[Json], tenant: str, key: SigningKey) -> list[Json]:
    days: dict[str, list[Json]] = {}
    for item in made:
        days.setdefault(item["merkle_root_date"], []).append(item)
    found: list[Json] = []
    previous: str | None = None
    for date, items in days.items():
        of_day = [item["audit_row"] for item in items]
        digest = rows.records_digest(items)
        payload = rows.root_payload(tenant, date, rows.root_of(of_day), of_day, previous, key.kid, digest)
        data = keys.canonical(payload)
        names = ("root_date", "root_hash", "leaf_count", "leaf_range_start_id", "leaf_range_end_id", "prev_root_hash")
        found.append(
            {
                **{name: payload[name] for name in names},
                "kid": key.kid,
                "algorithm": "ed25519",
                "signature_b64": key.sign(data),
                "signed_payload_canonical_json": data.decode(),
            }
        )
        previous = payload["root_hash"]
    return found


def _public(key: SigningKey, rotations: list[Statement]) -> Json:
    since = [statement["time"] for statement in rotations if statement.get("to") == key.kid]
    return {
        "kid": key.kid, "algorithm": "ed25519", "pem": key.public.pem, "valid_from": since[0] if since else None,
        "valid_to": None,
    }  # fmt: skip
