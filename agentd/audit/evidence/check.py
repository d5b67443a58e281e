"""Checks an Aegis evidence bundle strictly: everything in it is bound to a signature of a key that the auditor pinned.

The published verifier (aegis-aevf) recomputes hashes of six members of each row and checks signatures over texts that
nobody compares with what stands beside them. Here each of these has to hold, in this order, and the first that doesn't
is named:

    form       exactly the members that agentd writes, no key twice in an object, at least one row and one root
    keys       the fingerprint recomputed from the PEM, and the key pinned, or led to from a pinned one by statements
    statement  about the whole bundle, signed
    rows       made again from the record that they carry, whose own hash fits; tenant, period, shard, day; in the order
               of (timestamp, id), each in its shard right after the one before, from 64 zeros on; its receipt signed
    roots      one for each day that has rows and no other, rebuilt from the receipts; the signed text parsed, and
               equal to what stands beside it: count, first and last id, root before, and the digest of the records
    retention  says when the first and the last row were, and not less than their age allows
    whole      what the statement says of the bundle: also what no root covers, and that nothing is missing at the end

The file is read twice, a row at a time: once for what stands around the rows, wherever that is, and once for the rows.
So memory doesn't grow with it, but for a bit a record.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from agentd.audit import chain, keys
from agentd.audit.evidence import rows, stream
from agentd.audit.evidence.rows import Json
from agentd.audit.evidence.stream import Refused
from agentd.audit.keys import PublicKey

BUNDLE_MEMBERS: Final = {
    "format_version", "framework", "tenant_id", "period", "generated_at", "public_keys", "merkle_roots", "records",
    "retention_metadata", "verifier_recipe", "producer_metadata",
}  # fmt: skip
ROW_MEMBERS: Final = {
    "id", "tenant_id", "agent_id", "action", "tool", "decision", "reason", "request_id", "timestamp", "chain_shard",
    "metadata_json", "prev_hash", "event_hash",
}  # fmt: skip
ROOT_MEMBERS: Final = {
    "root_date", "root_hash", "leaf_count", "leaf_range_start_id", "leaf_range_end_id", "prev_root_hash", "kid",
    "algorithm", "signature_b64", "signed_payload_canonical_json",
}  # fmt: skip
DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Checked:
    """What a bundle holds; bad: the first thing that isn't as it should be, "" if all is proved."""

    path: str
    bad: str
    records: int = 0
    roots: int = 0
    tenant: str = ""
    start: str = ""
    end: str = ""
    kid: str = ""
    log: str = ""
    first: int = 0
    through: int = 0
    selected: str = ""

    @property
    def ok(self) -> bool:
        return not self.bad


def looks_like_one(path: Path) -> bool:
    """Is this file a bundle, or meant to be one, and not a log? A log's first line is a record."""
    with path.open("rb") as file:
        start = file.read(1 << 16).lstrip()
    line = start.partition(b"\n")[0]
    if line.startswith(b'{"action":') or not start.startswith((b"{", b"[")):
        return False
    return any(name in start for name in (b'"format_version"', b'"records"', b'"public_keys"', b'"merkle_roots"'))


def check_file(
    path: Path, pins: Sequence[PublicKey], now: float, progress: Callable[[int, int], None] | None = None
) -> Checked:
    """The bundle in `path`. progress(bytes done, bytes in all), in two rounds. Raises OSError."""
    try:
        with path.open("rb", buffering=0) as file:
            return _Check(str(path), file, progress or (lambda done, total: None)).over(pins, now)
    except Refused as refused:
        return Checked(str(path), str(refused))
    except (ValueError, RecursionError) as error:
        return Checked(str(path), f"not JSON: {error}")
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        return Checked(str(path), f"a member is missing or of another type ({type(error).__name__}: {error})")


def _need(condition: bool, why: str) -> None:
    if not condition:
        raise Refused(why)


def _members(value: Any, expected: set[str], what: str) -> Json:
    _need(isinstance(value, dict), f"{what} is not an object")
    made: Json = value
    missing, unknown = sorted(expected - set(made)), sorted(set(made) - expected)
    _need(not missing, f"{what}: {', '.join(missing)} is missing")
    _need(not unknown, f"{what}: {', '.join(map(str, unknown))} is unknown, so nothing is said about it")
    return made


def _list(value: Any, what: str) -> list[Any]:
    _need(isinstance(value, list), f"{what} is not a list")
    made: list[Any] = value
    return made


class _Check:
    """One bundle, in an open file."""

    def __init__(self, path: str, file: BinaryIO, progress: Callable[[int, int], None]) -> None:
        self.path = path
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.progress = progress
        self.digest = hashlib.sha256()
        self.previous: str | None = None  # hash of the last root

    def over(self, pins: Sequence[PublicKey], now: float) -> Checked:
        bundle, count = stream.outer(self.file, "records", lambda done: self.progress(done, 2 * self.size))
        _members(bundle, BUNDLE_MEMBERS, "the bundle")
        _need(bundle["format_version"] == rows.FORMAT, f"format {bundle['format_version']!r}, not {rows.FORMAT}")
        _need(bundle["framework"] in rows.FRAMEWORKS, f"framework {bundle['framework']!r} is unknown")
        _need(count is not None, "records is not a list")
        roots = _list(bundle["merkle_roots"], "merkle_roots")
        _need(bool(count), "there are no records: an empty bundle proves nothing")
        _need(bool(roots), "there is no signed root")
        own = bundle["producer_metadata"]
        _members(own, {"producer", "rotations", "statement", "signature"}, "producer_metadata")
        key = _key(_list(bundle["public_keys"], "public_keys"), _list(own["rotations"], "rotations"), pins)
        said = _statement(own, key)
        found = self.each_row(bundle, key, count or 0, said["from"])
        _retention(bundle["retention_metadata"], found, now)
        _whole(said, bundle, found, self.digest.hexdigest())
        return Checked(
            self.path, "", found.count, len(roots), bundle["tenant_id"], bundle["period"]["start"],
            bundle["period"]["end"], key.kid, said["log"], said["from"], said["through"],
            ", ".join(f"{name} {value}" for name, value in sorted(said["selected"].items())),
        )  # fmt: skip

    def each_row(self, bundle: Json, key: PublicKey, count: int, first: int) -> _Rows:
        """Row after row, and the root of each day when its last row was there."""
        roots = bundle["merkle_roots"]
        dates = [_members(root, ROOT_MEMBERS, "a root")["root_date"] for root in roots]
        _need(dates == sorted(set(dates)), "the roots are not in the order of their days, or one is there twice")
        waiting = iter(roots)
        checked = _Rows(bundle, key, count, first)
        day: rows.Day | None = None
        for record in stream.items(self.file, "records", lambda done: self.progress(self.size + done, 2 * self.size)):
            row, receipt = checked.take(record)
            date, text = record["merkle_root_date"], keys.canonical(record)
            if day is None or day.date != date:
                if day is not None:
                    self.root(day, waiting, bundle["tenant_id"], key)
                _need(date in dates, f"no root covers the rows of {date}")
                day = rows.Day(date)
            day.add(row, receipt, text)
            self.digest.update(text + b"\n")
        if day is not None:
            self.root(day, waiting, bundle["tenant_id"], key)
        for root in waiting:
            raise Refused(f"root {str(root['root_date'])[:10]}: there are no rows of that day")
        return checked

    def root(self, day: rows.Day, waiting: Iterator[Json], tenant: str, key: PublicKey) -> None:
        """The next root, which is that of this day's rows."""
        root = next(waiting)  # there is one of this date, or a row of it would have been refused
        name = f"root {str(root['root_date'])[:10]}"
        _need(root["root_date"] == day.date, f"{name}: there are no rows of that day")
        expected = day.payload(tenant, self.previous, key.kid)
        said = _text(root["signed_payload_canonical_json"], set(expected), f"{name}: what is signed")
        _need(root["algorithm"] == "ed25519", f"{name}: algorithm {root['algorithm']!r}")
        _need(root["kid"] == key.kid, f"{name}: kid {str(root['kid'])[:16]} is not the key's")
        for member in ROOT_MEMBERS - {"kid", "algorithm", "signature_b64", "signed_payload_canonical_json"}:
            _need(said[member] == root[member], f"{name}: {member} is not what was signed")
        signed = key.signed(root["signed_payload_canonical_json"].encode(), root["signature_b64"])
        _need(signed, f"{name}: not signed by key {key.kid[:16]}")
        for member, value in expected.items():
            _need(said[member] == value, f"{name}: the signed {member} is not that of the rows")
        self.previous = root["root_hash"]


def _key(listed: list[Any], rotations: list[Any], pins: Sequence[PublicKey]) -> PublicKey:
    _need(len(listed) == 1, f"{len(listed)} public keys where one signs everything")
    entry = _members(listed[0], {"kid", "algorithm", "pem", "valid_from", "valid_to"}, "the public key")
    _need(entry["algorithm"] == "ed25519", f"algorithm {entry['algorithm']!r} is not ed25519")
    try:
        key = keys.parse_public(str(entry["pem"]))
    except ValueError as error:
        raise Refused(f"the public key is {error}") from None
    _need(entry["kid"] == key.kid, f"the kid {str(entry['kid'])[:16]} is not the fingerprint of the PEM beside it")
    for pin in pins:
        at = pin
        for statement in rotations:
            if isinstance(statement, dict) and statement.get("from") == at.kid and at.kid != key.kid:
                try:
                    at = keys.follow(at, statement)
                except ValueError as error:
                    raise Refused(f"a change of key that is not signed: {error}") from None
        if at.kid == key.kid:
            return key
    raise Refused(f"signed by key {key.kid[:16]}, and not by {pins[0].kid[:16]} or a key that it has signed")


class _Rows:
    """The rows so far. first: the lowest seq there may be; there are at most `most` rows."""

    def __init__(self, bundle: Json, key: PublicKey, most: int, first: int) -> None:
        self.tenant = bundle["tenant_id"]
        self.key = key
        period = _members(bundle["period"], {"start", "end"}, "period")
        self.start, self.end = _time(period["start"], "period.start"), _time(period["end"], "period.end")
        _need(self.start <= self.end, "the period ends before it starts")
        self.ends = [chain.GENESIS] * rows.SHARDS
        self.count = 0
        self.earliest = self.latest = ""
        self.before = ("", "")
        self.first = first
        self.seen = bytearray(most // 8 + 1)  # a bit for each seq from `first` on
        self.numbers: tuple[int, int] = (0, 0)  # lowest and highest seq

    def take(self, record: Any) -> tuple[Json, bytes]:
        """The next one; its row, and what its receipt is signed over."""
        _members(record, {"audit_row", "mappings", "merkle_root_date", "receipt"}, "a record")
        row = _members(record["audit_row"], ROW_MEMBERS, "an audit_row")
        name = f"row {str(row['id'])[:32]}"
        _native(row["metadata_json"], name)
        expected = rows.row_of(row["metadata_json"])
        for member, value in expected.items():
            _need(row[member] == value, f"{name}: {member} is not what the record that it carries says")
        _need(row["tenant_id"] == self.tenant, f"{name}: tenant {row['tenant_id']!r}, in a bundle of another")
        inside = self.start <= _time(row["timestamp"], name) <= self.end
        _need(inside, f"{name}: {row['timestamp']} is outside of the period")
        _need(record["merkle_root_date"] == row["timestamp"][:10], f"{name}: its merkle_root_date is another day")
        at = row["timestamp"], row["id"]
        _need(self.before < at, f"{name}: not in the order of (timestamp, id), or there twice")
        self.before = at
        shard = row["chain_shard"]
        if row["prev_hash"] != self.ends[shard]:
            why = "begins with" if self.ends[shard] == chain.GENESIS else "doesn't follow the row before:"
            raise Refused(
                f"{name}: its chain (shard {shard}) {why} {str(row['prev_hash'])[:16]}, not {self.ends[shard][:16]}"
            )
        self.ends[shard] = rows.event_hash(row, self.ends[shard])
        _need(row["event_hash"] == self.ends[shard], f"{name}: its event_hash is not that of its content")
        receipt = _members(record["receipt"], {"signature", "kid"}, f"{name}: receipt")
        _need(receipt["kid"] == self.key.kid, f"{name}: a receipt of another key")
        said = keys.canonical(rows.receipt_of(row))
        signed = self.key.signed(said, receipt["signature"])
        _need(signed, f"{name}: the receipt is not signed by key {self.key.kid[:16]}")
        self.counted(row["metadata_json"]["seq"], row["timestamp"])
        return row, said

    def counted(self, seq: int, timestamp: str) -> None:
        self.numbers = (min(self.numbers[0], seq), max(self.numbers[1], seq)) if self.count else (seq, seq)
        self.earliest, self.latest = self.earliest or timestamp, timestamp
        self.count += 1
        place = seq - self.first
        if 0 <= place < 8 * len(self.seen):
            self.seen[place >> 3] |= 1 << (place & 7)

    def different(self) -> int:
        """How many numbers there are from `first` on, each counted once."""
        return sum(byte.bit_count() for byte in self.seen)


def _native(record: Any, name: str) -> None:
    """The record of the log that a row carries, against its own hash."""
    body = {member: value for member, value in record.items() if member not in ("seq", "prev_hash", "hash")}
    try:
        _, link = chain.seal(body, chain.Link(record["seq"] - 1, record["prev_hash"]))
    except ValueError as error:
        raise Refused(f"{name}: the record that it carries is none: {error}") from None
    _need(link.hash == record["hash"], f"{name}: the record that it carries was changed: its hash doesn't fit")


def _retention(said: Any, found: _Rows, now: float) -> None:
    names = {"policy", "configured_retention_days", "earliest_row_in_bundle", "latest_row_in_bundle"}
    _members(said, names, "retention_metadata")
    first, last = found.earliest, found.latest
    _need(said["earliest_row_in_bundle"] == first, "retention_metadata: earliest_row_in_bundle is not the first row's")
    _need(said["latest_row_in_bundle"] == last, "retention_metadata: latest_row_in_bundle is not the last row's")
    days = said["configured_retention_days"]
    if days is not None:
        _need(
            isinstance(days, int) and not isinstance(days, bool) and days > 0, "retention_metadata: no number of days"
        )
        age = now - _time(first, "the first row")
        _need(age <= (days + 1) * DAY_SECONDS, f"retention_metadata: {days} days, and the first row is older")


def _statement(own: Json, key: PublicKey) -> Json:
    names = {"kind", "version", "kid", "log", "selected", "from", "through", "records", "roots", "last_root_hash"}
    said = _text(own["statement"], names | {"bundle_sha256"}, "the statement about the bundle")
    _need(said["kind"] == rows.STATEMENT_KIND and said["version"] == 1, "the statement is of another kind")
    _need(key.signed(own["statement"].encode(), own["signature"]), f"the statement is not signed by key {key.kid[:16]}")
    _need(said["kid"] == key.kid, "the statement names another key")
    return said


def _whole(said: Json, bundle: Json, found: _Rows, records: str) -> None:
    """Is that the bundle which the statement is about? records: digest of its records."""
    roots = bundle["merkle_roots"]
    for member, value in (
        ("records", found.count), ("roots", len(roots)), ("from", found.numbers[0]), ("through", found.numbers[1]),
        ("last_root_hash", roots[-1]["root_hash"]),
    ):  # fmt: skip
        _need(said[member] == value, f"the statement says {member} {said[member]}, and the bundle {value}")
    if not said["selected"]:
        missing = said["through"] - said["from"] + 1 - found.different()
        _need(missing == 0, f"{missing} records between {said['from']} and {said['through']} are not there")
    own = bundle["producer_metadata"]
    rest = {name: value for name, value in bundle.items() if name not in ("records", "producer_metadata")}
    rest["producer_metadata"] = {name: own[name] for name in own if name not in ("statement", "signature")}
    changed = "something that no root covers was changed"
    _need(said["bundle_sha256"] == rows.digest_of(rest, records), changed)


def _text(text: Any, names: Iterable[str], what: str) -> Json:
    """A signed text, parsed: canonical, and with these members."""
    _need(isinstance(text, str), f"{what} is not a text")
    said = _members(stream.parse(text), set(names), what)
    _need(keys.canonical(said) == text.encode(), f"{what} is not in canonical form")
    return said


def _time(text: Any, what: str) -> float:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        raise Refused(f"{what}: {str(text)[:40]!r} is not a time") from None
