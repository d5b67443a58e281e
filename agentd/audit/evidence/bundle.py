"""Makes an Aegis evidence bundle of records of the log, signed with the host's key.

The rows are chained and signed when the bundle is made. That they are the log's is the word of the exporter, which
has verified the log before; the proof of it are the log's own signatures, kept with the log. It is written a record
at a time, each on a line of its own, so what it holds may be bigger than the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import IO

from agentd.audit import keys
from agentd.audit.chain import GENESIS
from agentd.audit.evidence import mappings, rows
from agentd.audit.evidence.order import Ordered
from agentd.audit.evidence.rows import Json
from agentd.audit.keys import SigningKey, Statement
from agentd.errors import AgentdError

RECIPE = {
    "tool": "aegis-verify",
    "install": "pip install aegis-aevf",
    "run": "python -m aegis_verify --bundle FILE",
    "strict": "agentd audit verify FILE --key signing.pub, which also binds the rows to what was signed, and to a key",
}


def tenant_of(records: Ordered) -> str:
    """The host that the records are of. Raises AgentdError usage if there are none, or of two hosts."""
    if not records.count:
        raise AgentdError("usage", "export", "no record matches, and an empty bundle proves nothing", exit_code=2)
    if len(records.hosts) > 1:
        why = f"the records name several hosts ({', '.join(sorted(records.hosts))})"
        raise AgentdError("usage", "export", why, "choose a period with --since and --until", exit_code=2)
    (tenant,) = records.hosts
    return tenant


def write(
    out: IO[str],
    records: Ordered,
    key: SigningKey,
    *,
    framework: str,
    period: tuple[str | None, str | None],
    generated_at: str,
    log: str,
    selected: Mapping[str, str],
    rotations: list[Statement],
    retention_days: int | None,
) -> None:
    """Writes the bundle, a record at a time. period: its start and end in RFC 3339, None: those of the rows; log: the
    log's name; selected: by which filters; retention_days: how long records are kept, None: without limit.

    Raises AgentdError usage, before anything is written, if `tenant_of` does.
    """
    tenant = tenant_of(records)
    rest: Json = {
        "format_version": rows.FORMAT,
        "framework": framework,
        "tenant_id": tenant,
        "period": {"start": period[0] or records.first, "end": period[1] or records.last},
        "generated_at": generated_at,
        "public_keys": [_public(key, rotations)],
        "retention_metadata": {
            "policy": "kept without limit" if retention_days is None else f"kept for {retention_days} days",
            "configured_retention_days": retention_days,
            "earliest_row_in_bundle": records.first,
            "latest_row_in_bundle": records.last,
        },
        "verifier_recipe": dict(RECIPE),
        "producer_metadata": {"producer": "agentd", "rotations": rotations},
    }
    out.write("{" + _members({name: rest[name] for name in rest if name != "producer_metadata"}) + ',"records":[')
    rest["merkle_roots"], numbers, digest = _records(out, records, key, tenant)
    statement = {
        "kind": rows.STATEMENT_KIND, "version": 1, "kid": key.kid, "log": log, "selected": dict(selected),
        "from": numbers[0], "through": numbers[1], "records": records.count, "roots": len(rest["merkle_roots"]),
        "last_root_hash": rest["merkle_roots"][-1]["root_hash"], "bundle_sha256": rows.digest_of(rest, digest),
    }  # fmt: skip
    data = keys.canonical(statement)
    rest["producer_metadata"] |= {"statement": data.decode(), "signature": key.sign(data)}
    out.write("\n]," + _members({name: rest[name] for name in ("merkle_roots", "producer_metadata")}) + "}\n")


def _members(value: Json) -> str:
    return keys.canonical(value).decode()[1:-1]


def _records(out: IO[str], records: Ordered, key: SigningKey, tenant: str) -> tuple[list[Json], tuple[int, int], str]:
    """Writes the rows; the roots of their days, the lowest and the highest seq, and the digest of all of them."""
    ends = [GENESIS] * rows.SHARDS
    roots: list[Json] = []
    digest = hashlib.sha256()
    numbers: list[int] = []
    day: rows.Day | None = None
    for record in records:
        row = rows.row_of(record)
        shard = row["chain_shard"]
        row["prev_hash"] = ends[shard]
        row["event_hash"] = ends[shard] = rows.event_hash(row, ends[shard])
        receipt = keys.canonical(rows.receipt_of(row))
        date = row["timestamp"][:10]
        item = {
            "audit_row": row, "mappings": mappings.of(record), "merkle_root_date": date,
            "receipt": {"signature": key.sign(receipt), "kid": key.kid},
        }  # fmt: skip
        text = keys.canonical(item)
        if day is None or day.date != date:
            if day is not None:
                roots.append(_root(day, tenant, roots, key))
            day = rows.Day(date)
        day.add(row, receipt, text)
        digest.update(text + b"\n")
        out.write(("," if numbers else "") + "\n" + text.decode())
        seq = record["seq"]
        numbers = [min(numbers[0], seq), max(numbers[1], seq)] if numbers else [seq, seq]
    assert day is not None
    roots.append(_root(day, tenant, roots, key))
    return roots, (numbers[0], numbers[1]), digest.hexdigest()


def _root(day: rows.Day, tenant: str, before: list[Json], key: SigningKey) -> Json:
    payload = day.payload(tenant, before[-1]["root_hash"] if before else None, key.kid)
    data = keys.canonical(payload)
    names = ("root_date", "root_hash", "leaf_count", "leaf_range_start_id", "leaf_range_end_id", "prev_root_hash")
    return {
        **{name: payload[name] for name in names},
        "kid": key.kid,
        "algorithm": "ed25519",
        "signature_b64": key.sign(data),
        "signed_payload_canonical_json": data.decode(),
    }


def _public(key: SigningKey, rotations: list[Statement]) -> Json:
    since = [statement["time"] for statement in rotations if statement.get("to") == key.kid]
    return {
        "kid": key.kid, "algorithm": "ed25519", "pem": key.public.pem, "valid_from": since[0] if since else None,
        "valid_to": None,
    }  # fmt: skip
