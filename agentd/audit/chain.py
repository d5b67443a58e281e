"""The hash chain: how one line of the log is bound to the line before it.

A line is the canonical JSON (RFC 8785) of one record and a newline. The members that make the chain:

    seq        1 for the first record, then one more each
    prev_hash  the `hash` of the record before; 64 zeros before the first
    hash       SHA-256, in hex, of the canonical JSON of the record without the member `hash`
               (so over prev_hash too, which binds every record to all before it)

Anyone can recompute it, with nothing of agentd:

    import hashlib, json, sys
    prev, seq = "0" * 64, 1
    for line in open(sys.argv[1], encoding="utf-8", newline="\\n"):
        record = json.loads(line)
        stated = record.pop("hash")
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert record["prev_hash"] == prev and record["seq"] == seq, f"broken before seq {record['seq']}"
        assert hashlib.sha256(text.encode()).hexdigest() == stated, f"seq {record['seq']} was changed"
        prev, seq = stated, seq + 1

The verifier here gets the same bytes without parsing: every record has a `guarantee` and a `host`, canonical order puts
`hash` between them, only plain values come before it, and a quotation mark inside a string is always escaped. So the
bytes to hash are the line less its one `"hash":"...",`, and no other place in the line can be taken for it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from agentd.audit import canonical

GENESIS: Final = "0" * 64
MAX_LINE: Final = 1 << 20  # bytes, newline included; a longer line is damage, and is never read into memory

_SEAL = re.compile(rb'"guarantee":(?:null|"[a-z]+"),"hash":"([0-9a-f]{64})","host":')
_PREV = re.compile(rb',"prev_hash":"([0-9a-f]{64})",')
_SEQ = re.compile(rb',"seq":([1-9][0-9]{0,15}),"timestamp":"')
_SEAL_BYTES: Final = len('"hash":"') + 64 + len('",')


@dataclass(frozen=True, slots=True)
class Link:
    """Where a chain stands: the number and the hash of its last record."""

    seq: int = 0
    hash: str = GENESIS


class Damage(ValueError):
    """A line that isn't what a writer wrote; the message says why."""


def seal(body: dict[str, canonical.Json], link: Link) -> tuple[bytes, Link]:
    """The line (with its newline) that puts `body` after `link`, and the chain's new end.

    `body` has every member but seq, prev_hash and hash. Raises CanonicalError, and ValueError if the line is too long.
    """
    body["seq"] = link.seq + 1
    body["prev_hash"] = link.hash
    unsealed = canonical.dumps_checked(body)
    digest = hashlib.sha256(unsealed).hexdigest()
    at = unsealed.index(b'"host":')
    line = b'%b"hash":"%b",%b\n' % (unsealed[:at], digest.encode(), unsealed[at:])
    if len(line) > MAX_LINE:
        raise ValueError(f"a record of {len(line)} bytes; at most {MAX_LINE}")
    return line, Link(link.seq + 1, digest)


def read(line: bytes) -> tuple[int, str, str]:
    """(seq, prev_hash, hash) of one line, newline included, whose hash fits its bytes. Raises Damage."""
    if line[-1:] != b"\n":
        raise Damage(_unfinished(line))
    stated = _SEAL.search(line, max(0, line.find(b'"guarantee":')))
    prev = _PREV.match(line, line.rfind(b',"prev_hash":'))
    number = _SEQ.match(line, line.rfind(b',"seq":'))
    if stated is None or prev is None or number is None or line.count(b'"hash":') != 1:
        raise Damage("not a record of an agentd log (no hash, prev_hash and seq where they belong)")
    at = stated.start(1) - 8
    actual = hashlib.sha256(line[:at] + line[at + _SEAL_BYTES : -1]).hexdigest()
    if actual.encode() != stated[1]:
        raise Damage(f"changed after it was written: its content hashes to {actual}, it says {stated[1].decode()}")
    return int(number[1]), prev[1].decode(), actual


def _unfinished(line: bytes) -> str:
    if len(line) >= MAX_LINE:
        return f"longer than any record can be ({MAX_LINE} bytes)"
    return f"the last line has no end ({len(line)} bytes): cut off, or torn by a crash"


def follow(link: Link, seq: int, prev: str) -> str:
    """Why a record with this seq and prev_hash can't come after `link`; empty if it can."""
    if prev == link.hash and seq == link.seq + 1:
        return ""
    if link.seq == 0 and seq == 1:
        return "the first record names a record before it: not the start of this log"
    if link.seq == 0:
        return f"the log doesn't start with its first record: seq {seq}, {seq - 1} records before it are missing"
    if seq > link.seq + 1:
        return f"{seq - link.seq - 1} records are missing between seq {link.seq} and seq {seq}"
    if seq <= link.seq:
        return f"seq {seq} after seq {link.seq}: a record that was repeated, moved or inserted"
    return f"seq {seq} doesn't continue seq {link.seq}: it follows another record (two logs joined, or one replaced)"
