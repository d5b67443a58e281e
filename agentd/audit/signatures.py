"""The signatures of a log, checked while it is read: who signs, what the roots cover, where the log has to end.

A root is recomputed from the records since the last one; its payload has to say what the log says. The signature of a
root is about its payload, which names the hash of the record before it, which depends on every record before that. So
one good signature proves all before it, and when roots are close together only every few records' is computed (EVERY);
the ones between are proved by it, and looked at one by one as soon as anything is wrong, or when `each` is asked for.

Which key: the auditor pins a public key. The log has to be signed by it from some point on, or by keys that it leads
to: each change of key is signed by the key before and by the key after.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentd.audit import chain, keys, receipts, segments
from agentd.audit.chain import Damage, Link
from agentd.audit.keys import PublicKey
from agentd.audit.merkle import Tree

if TYPE_CHECKING:
    from agentd.audit.chunks import Seen

EVERY: Final = 64  # records between two signatures that are computed
RECENT: Final = 600  # seconds in which records at the end may wait for their signature, or agentd for its next start
LATE: Final = 60  # seconds between the first and the last root that the signed head may not know of yet
WAITING: Final = 60_000  # records that are kept because their receipts may still come; others are read again then
MARKS: Final = frozenset({b"signed", b"signing_key", b"key_rotated", b"segment_started", b"pruned"})


Head = tuple[dict[str, Any], object]  # payload and signature


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A signature that was not computed yet, and where it stands."""

    said: dict[str, Any]
    signature: object
    key: PublicKey
    place: Any

    def good(self) -> bool:
        """Is it?"""
        return self.key.signed(keys.canonical(self.said), self.signature)


@dataclass(slots=True)
class Signatures:
    """The state of the check. tree: the leaves since the last root, which whoever reads the log adds (add_leaf).

    pins: the keys an auditor trusts; none: whoever signs is only reported. each: compute every signature and receipt.
    find: the record of the log with a seq.
    """

    pins: tuple[PublicKey, ...] = ()
    each: bool = False
    find: Callable[[int], dict[str, Any] | None] = lambda _: None
    tree: Tree = field(default_factory=Tree)
    key: PublicKey | None = None
    changes: list[tuple[int, PublicKey]] = field(default_factory=list)  # from which record on who signs
    due: int = 0  # records that should have a receipt
    log: str = ""
    roots: int = 0
    computed: int = 0
    receipts: int = 0
    covered: int = 0  # seq up to which roots go
    pruned: int = 0
    only_head: bool = False  # a signed head, and no record about signatures yet
    start: Link = field(default_factory=Link)  # before the first record that is there
    start_proved: bool = False
    noted: int = 0  # the record that the signed head names
    _after_head: tuple[str, str] = ("", "")  # times of the first and the last root after that
    _previous: str = chain.GENESIS
    _since: int = 1  # seq of the tree's first leaf
    _computed_at: int = 0
    _deferred: list[_Deferred] = field(default_factory=list)
    _anchored: bool = False
    _waiting: dict[int, dict[str, Any]] = field(default_factory=dict)  # the oldest of those, by seq
    _not_kept: int = 0  # the first of those that are not in _waiting
    _receipted: int = 0  # the last record that got one: they come in the order of their records

    def begin(self, seq: int, prev: str, digest: str) -> None:
        """The first record that is there."""
        self.start = Link(seq - 1, prev)
        self._since = seq
        if seq == 1:
            self.log = digest
            self.start_proved = True

    def take(self, kind: bytes, line: bytes, seq: int, prev: str, place: Any) -> Any:
        """One of the MARKS; called before it is added as a leaf. Raises Damage; or returns an earlier bad place."""
        try:
            metadata = json.loads(line).get("metadata")
        except (ValueError, RecursionError, AttributeError) as error:
            raise Damage(f"not a record: {error}") from None
        if not isinstance(metadata, dict):
            raise Damage("its metadata is not an object")
        if kind == b"signed":
            return self._signed(metadata, seq, prev, place)
        if kind == b"key_rotated":
            self._rotated(metadata, seq)
        elif kind == b"pruned":
            self.pruned += 1
            if (metadata.get("through"), metadata.get("head")) == (self.start.seq, self.start.hash):
                self.start_proved = True
        elif "pem" in metadata:
            self._introduced(metadata, seq)
        return None

    def receipt_due(self, record: dict[str, Any], digest: str, prev: str, seq: int) -> None:
        """Strict: this record should have a receipt in one of the next roots.

        In a flood agentd leaves some out, and signs the others later, so how many lie between can't be known.
        """
        self.due += 1
        if len(self._waiting) < WAITING:
            self._waiting[seq] = receipts.receipt(record, digest, prev)
        else:
            self._not_kept = self._not_kept or seq

    @property
    def unreceipted(self) -> int:
        """Strict: how many records should have a receipt, and don't."""
        return self.due - self.receipts

    # -- parts that were checked by themselves (chunks.py)

    def copy(self) -> Signatures:
        """The same state, which goes on by itself."""
        other = copy.copy(self)
        other.tree = self.tree.copy()
        other.changes, other._deferred = self.changes[:], self._deferred[:]
        other._waiting = dict(self._waiting)
        return other

    def join(self, seen: Seen, place: Any) -> bool:
        """Takes a part that is good in itself, and follows. False if it isn't good here; then this state is spoilt."""
        self._leaves(seen.before)
        mark = seen.mark
        if mark is None:
            return True
        if self.take(b"signed", mark.line, mark.seq, mark.prev, place) is not None or self._previous != mark.root:
            return False
        if seen.roots:
            if seen.computed:  # good signatures, which cover what was left for later
                self._deferred.clear()
            self.roots += seen.roots
            self.computed += seen.computed
            self.covered = seen.since - 1
            if seen.after_head[0]:
                self._after_head = self._after_head[0] or seen.after_head[0], seen.after_head[1]
            self._previous, self._since, self._computed_at = seen.root, seen.since, seen.since
        self._leaves(seen.after)
        return True

    def _leaves(self, digests: bytes) -> None:
        self.tree.extend(digests[at : at + 64] for at in range(0, len(digests), 64))

    # -- keys

    def _introduced(self, said: dict[str, Any], seq: int) -> None:
        key = _parse(said["pem"])
        if said.get("key") != key.kid:
            raise Damage("the fingerprint it names is not that of the key it gives")
        if self.key is not None:
            if key.kid != self.key.kid:
                raise Damage(f"key {key.kid[:16]} takes over from {self.key.kid[:16]}, which has not signed that")
            return
        self._use(key, seq)
        # A pinned key that signed before the first file that is left leads here by its statements.
        statements = said.get("rotations")
        for pin in self.pins:
            at = pin
            for statement in statements if isinstance(statements, list) else ():
                if isinstance(statement, dict) and statement.get("from") == at.kid and at.kid != key.kid:
                    try:
                        at = keys.follow(at, statement)
                    except ValueError as error:
                        raise Damage(f"a change of key that is not signed: {error}") from None
            self._anchored |= at.kid == key.kid

    def _rotated(self, said: dict[str, Any], seq: int) -> None:
        if self.key is None:
            raise Damage("a change of key before there was one")
        try:
            self._use(keys.follow(self.key, said), seq)
        except ValueError as error:
            raise Damage(f"a change of key that is not signed: {error}") from None

    def _use(self, key: PublicKey, seq: int) -> None:
        self.key = key
        self.changes.append((seq, key))
        self._anchored |= any(pin.kid == key.kid for pin in self.pins)

    # -- roots

    def _signed(self, said: dict[str, Any], seq: int, prev: str, place: Any) -> Any:
        if self.key is None:
            raise Damage("signed, and no record before it says by which key")
        made = said.pop("receipts", None)
        signature = said.pop("signature", None)
        if set(said) != receipts.ROOT_MEMBERS or said["version"] != receipts.ROOT_VERSION or not isinstance(made, list):
            raise Damage("not a signed root")
        if said["key"] != self.key.kid:
            raise Damage(f"signed by key {str(said['key'])[:16]}, and {self.key.kid[:16]} signs here")
        root = self.tree.root()
        first = self._since
        if self.roots == 0 and self.start.seq:  # after files that were removed: begun in one of them
            self.log, self._previous = self.log or str(said["log"]), str(said["previous_root"])
            if isinstance(said["from"], int) and said["from"] <= self.start.seq:
                first, root = said["from"], str(said["root"])
        expected = receipts.root(self.log, first, Link(seq - 1, prev), root, self._previous, said["time"], self.key.kid)
        if said != expected:
            name, value = next((name, value) for name, value in expected.items() if said[name] != value)
            raise Damage(_difference(name, said[name], value))
        self.roots += 1
        self.covered = seq - 1
        if seq > self.noted:
            self._after_head = self._after_head[0] or str(said["time"]), str(said["time"])
        self._previous, self._since = str(said["root"]), seq
        self._deferred.append(_Deferred(said, signature, self.key, place))
        if self.each or seq - self._computed_at >= EVERY:
            self._computed_at = seq
            return self._compute() or self._check_receipts(made, seq, place)
        return None

    def _compute(self) -> Any:
        """Computes the last signature; if it is wrong, the place of the first wrong one."""
        if not self._deferred:
            return None
        self.computed += 1
        if self._deferred[-1].good():
            self._deferred.clear()
            return None
        for item in self._deferred:
            self.computed += 1
            if not item.good():
                return item.place, f"the signature over this root is not that of key {item.key.kid[:16]}"
        return None

    def _check_receipts(self, made: list[Any], seq: int, place: Any) -> Any:
        """Strict: every receipt in a root against the record it is for."""
        if not self.each:
            return None
        assert self.key is not None
        for item in made:
            number = item.get("record") if isinstance(item, dict) else None
            payload = self._owed(number, seq) if isinstance(number, int) else None
            if payload is None and isinstance(number, int) and 0 < number <= self.start.seq:
                continue  # its record was removed with an old file
            if payload is None:
                return place, f"a receipt for record {number}, which is not there, has one already or gets none"
            if not self.key.signed(keys.canonical(payload), item.get("signature")):
                return place, f"the receipt of record {number} is not signed by key {self.key.kid[:16]}"
            self.receipts += 1
        return None

    def _owed(self, number: int, below: int) -> dict[str, Any] | None:
        """What the receipt of a record is signed over, if it can be the next one to get a receipt."""
        if not max(self._receipted, self.start.seq) < number < below:
            return None
        self._receipted = number
        while self._waiting and (first := next(iter(self._waiting))) < number:
            del self._waiting[first]  # it gets none
        payload = self._waiting.pop(number, None)
        if payload is None and self._not_kept and number >= self._not_kept:
            record = self.find(number) or {}
            if record.get("event") in receipts.RECEIPT_EVENTS:
                payload = receipts.receipt(record, str(record["hash"]), str(record["prev_hash"]))
        return payload

    # -- the end

    def finish(self, end: Link) -> Any:
        """The last signatures. Returns a bad place (or None for the end of the log) and why, or None."""
        bad = self._compute()
        if bad is not None:
            return bad
        if not self.start_proved and self.start.seq:
            why = f"the log starts with record {self.start.seq + 1}, and no record says that those before were removed"
            return "start", why
        if self.only_head:
            return None
        if self.pins and not self.changes:
            return "end", f"nothing is signed: key {self.pins[0].kid[:16]} is expected"
        if self.pins and not self._anchored:
            known = ", ".join(key.kid[:16] for _, key in self.changes)
            return "end", f"signed by key {known}, and not by {self.pins[0].kid[:16]} or a key that it has signed"
        return None

    def look_at(self, head: Head | None) -> None:
        """A log that has just begun has its head a moment before the first record about signatures."""
        if head is None or self.changes:
            return
        said, signature = head
        mine = [pin for pin in self.pins if pin.kid == said["key"]]
        self.only_head = not self.pins or any(pin.signed(keys.canonical(said), signature) for pin in mine)

    def late_head(self) -> str:
        """Why the head file can't be the newest one, if so: agentd writes it a moment after every root."""
        first, last = (seconds_since(time.encode(), 0.0) for time in self._after_head)
        if not self._after_head[0] or abs(first - last) <= LATE:
            return ""
        return f"the signed head is an older one: of record {self.noted}, and roots of {self._after_head[0]} on follow"

    @property
    def signed(self) -> bool:
        """Is there anything that says what has to be signed?"""
        return bool(self.changes) or self.only_head

    def check_head(self, head: Head | None, hash_at: dict[int, str], end: Link) -> str:
        """What read_head gave against the log; why it doesn't fit, or "". hash_at: of the record it names."""
        if head is None:
            return "the signed head beside the log is missing or no head: where the log ends is not proved"
        said, signature = head
        if said["log"] != self.log and self.log:
            return "the signed head is of another log"
        if not self.only_head:
            if not self.changes:
                return "there is a signed head, and nothing in the log is signed"
            key = self.changes[0][1]
            for seq, later in self.changes:
                if seq <= said["record"]:
                    key = later
            if said["key"] != key.kid or not key.signed(keys.canonical(said), signature):
                return f"the signed head is not signed by key {key.kid[:16]}, which signs there"
        if said["record"] > end.seq:
            missing = said["record"] - end.seq
            return f"{missing} records are missing at the end: {said['record']} is the signed head of {said['time']}"
        if said["record"] == self.start.seq:
            hash_at = {self.start.seq: self.start.hash}
        if said["record"] >= max(1, self.start.seq) and hash_at.get(said["record"]) != said["head"]:
            return f"record {said['record']} is another one than the signed head of {said['time']} says"
        self.covered = max(self.covered, said["record"])
        return ""


def read_head(path: Path) -> Head | None:
    """(payload, signature) of the head file of the log `path`; None if there is none that is whole."""
    try:
        said = json.loads(segments.head_of(path).read_bytes()[:4096])
        signature = said.pop("signature")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if not isinstance(said, dict) or set(said) != receipts.HEAD_MEMBERS or said["version"] != receipts.HEAD_VERSION:
        return None
    number = said["record"]
    return (said, signature) if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None


def seconds_since(timestamp: bytes, now: float) -> float:
    """How old a record's time is, negative in the future; for ever if it can't be read."""
    try:
        return now - datetime.fromisoformat(timestamp.decode().replace("Z", "+00:00")).timestamp()
    except ValueError:
        return float("inf")


def _parse(pem: object) -> PublicKey:
    try:
        return keys.parse_public(str(pem))
    except ValueError as error:
        raise Damage(f"the key it gives is {error}") from None


def _difference(name: str, stated: object, value: object) -> str:
    if name == "root":
        return "the root over the records since the last one is not the one that was signed"
    if name == "log":
        return "signed as another log's"
    return f"the signed root says {name} {str(stated)[:64]}, and the log {str(value)[:64]}"
