"""A part of a log, checked by itself, so that parts can be checked side by side: the quick way of `verify`.

`look` answers only when everything in the part is as it has to be; else it answers None, and whoever asked goes over
these records one by one, with the code that can say what is wrong. So nothing is refused here, and nothing passes that
would not pass there: each line's hash, its link and number, and every root after the part's first one, which is
recomputed from the records and compared with what is signed.

What a part can't know is what came before it. It is told whose key signs and what the log is called; the hashes before
its first root and after its last one go back, to be joined with those of its neighbours.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Final

from agentd.audit import chain, keys, merkle, receipts
from agentd.audit.keys import PublicKey
from agentd.audit.signatures import MARKS

SIZE: Final = 4 << 20  # bytes of one part
_GUARANTEES: Final = frozenset({b"null,", b'"none",', b'"prevented",', b'"contained",', b'"detected",'})
_QUOTE: Final = ord('"')
_RECEIPT: Final = rb'\{"record":[1-9][0-9]*,"signature":"[A-Za-z0-9_-]*"\}'
_ROOT: Final = re.compile(
    rb'(?:%b(?:,%b)*)?\],"root":"([0-9a-f]{64})","signature":"([A-Za-z0-9_-]*)","through":([1-9][0-9]{0,15}),"time":"'
    rb'([0-9A-Z:.-]*)","version":"%b"\},"object":' % (_RECEIPT, _RECEIPT, re.escape(receipts.ROOT_VERSION.encode()))
)


@dataclass(frozen=True, slots=True)
class Task:
    """The lines of `path` that start at an offset in [begin, end). begin is at least 1.

    device, inode: the file that is meant; kid, pem, log: who signs, and the name of the log; head: a hash to look for;
    noted: a record whose hash is wanted.
    """

    path: str
    device: int
    inode: int
    begin: int
    end: int
    kid: str
    pem: str
    log: str
    head: str
    noted: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The part's first signed root: which line it is (from 0), its offset, the line, its seq, prev_hash and root."""

    index: int
    offset: int
    line: bytes
    seq: int
    prev: str
    root: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a part that is good holds. first, prev: of its first record; seq, hash: of its last one.

    before: the hashes (64 digits each) before `mark`, or all of them; after: those from the last root's own on;
    roots, computed: roots after `mark`, and signatures computed; since, root: the last root's place and value.
    after_head: times of the first and the last root after `mark` and after the record `noted` of the task.
    """

    begin: int
    end: int
    records: int
    first: int
    prev: str
    seq: int
    hash: str
    before: bytes
    mark: Mark | None
    after: bytes
    roots: int
    computed: int
    since: int
    root: str
    after_head: tuple[str, str]
    gaps: list[int]
    repairs: list[int]
    head_seq: int | None
    noted: str | None


def look(task: Task, key: PublicKey | None) -> Seen | None:
    """Checks one part; None if it isn't plainly good. key: that of the task. Raises OSError."""
    found = _lines(task)
    if found is None:
        return None
    begin, lines = found
    try:
        number, prev, _ = chain.read(lines[0] + b"\n")
    except chain.Damage:
        return None
    return _Part(task, key, begin, number, prev).over(lines)


def _lines(task: Task) -> tuple[int, list[bytes]] | None:
    """Where the part's first line starts, and its lines without their ends."""
    file = os.open(task.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if (status.st_dev, status.st_ino) != (task.device, task.inode):
            return None  # renamed meanwhile
        data = os.pread(file, task.end - task.begin + 1, task.begin - 1)
        if data[-1:] != b"\n":
            rest = os.pread(file, chain.MAX_LINE, task.begin - 1 + len(data))
            data += rest[: rest.find(b"\n") + 1]
    finally:
        os.close(file)
    start = data.find(b"\n") + 1
    if not start or start == len(data) or data[-1:] != b"\n":
        return None
    return task.begin - 1 + start, data[start:-1].split(b"\n")


class _Part:
    def __init__(self, task: Task, key: PublicKey | None, begin: int, number: int, prev: str) -> None:
        self.task = task
        self.key = key
        self.begin = begin
        self.first = number
        self.prev = prev
        self.mark: Mark | None = None
        self.before = b""
        self.since = 0
        self.root = ""
        self.roots = self.computed = 0
        self.after_head = "", ""
        # The last root, not computed yet: from, its seq, prev_hash, root, the root before, time and signature.
        self.pending: tuple[int, int, bytes, str, str, bytes, bytes] | None = None
        self.fixed = b',"key":"%b","log":"%b","previous_root":"' % (task.kid.encode(), task.log.encode())

    def over(self, lines: list[bytes]) -> Seen | None:
        sha256, marks, guarantees = hashlib.sha256, MARKS, _GUARANTEES
        offset, number, digest = self.begin, self.first - 1, self.prev.encode()
        waiting: list[bytes] = []
        gaps: list[int] = []
        repairs: list[int] = []
        head, head_seq = self.task.head.encode(), None
        noted, noted_hash = self.task.noted, None
        for line in lines:
            number += 1
            at = line.find(b'"hash":')
            sure = line.find(b'"guarantee":', 0, at)
            before = line.rfind(b',"prev_hash":')
            seq = line.rfind(b',"seq":')
            if (
                at < 0
                or sure < 0
                or before < 0
                or seq < 0
                or line[at + 7] != _QUOTE
                or line[at + 72 : at + 81] != b'","host":'
                or line[sure + 12 : at] not in guarantees
                or line.find(b'"hash":', at + 7) >= 0
                or line[before + 13 : before + 80] != b'"%b",' % digest
                or not line.startswith(b'%d,"timestamp":"' % number, seq + 7)
                or len(line) >= chain.MAX_LINE
            ):
                return None
            actual = sha256(line[:at] + line[at + 74 :]).hexdigest().encode()
            if actual != line[at + 8 : at + 72]:
                return None
            at = line.find(b'"event":"') + 9
            kind = line[at : line.find(b'"', at)]
            if kind in marks:
                if kind != b"signed" or not self.signed(line, number, digest, offset, waiting):
                    return None
                waiting = []
            elif kind == b"gap":
                gaps.append(number)
            elif kind == b"log_repaired":
                repairs.append(number)
            digest = actual
            waiting.append(digest)
            offset += len(line) + 1
            if digest == head:
                head_seq = number
            if number == noted:
                noted_hash = digest.decode()
        if not self.compute():
            return None
        rest = b"".join(waiting)
        return Seen(
            self.begin, offset, len(lines), self.first, self.prev, number, digest.decode(),
            self.before if self.mark else rest, self.mark, rest if self.mark else b"", self.roots, self.computed,
            self.since, self.root, self.after_head, gaps, repairs, head_seq, noted_hash,
        )  # fmt: skip

    def signed(self, line: bytes, seq: int, prev: bytes, offset: int, leaves: list[bytes]) -> bool:
        """A signed root. The first one is for whoever knows what came before it; the others are checked here."""
        at = line.find(b',"metadata":{"from":')
        if self.mark is None:
            found = re.search(rb'\],"root":"([0-9a-f]{64})","signature":"', line)
            if found is None:
                return False
            self.since, self.root = seq, found[1].decode()
            self.mark = Mark(seq - self.first, offset, line + b"\n", seq, prev.decode(), self.root)
            self.before = b"".join(leaves)
            return True
        root = self.root.encode()
        said = b',"metadata":{"from":%d,"head":"%b"%b%b","receipts":[' % (self.since, prev, self.fixed, root)
        if self.key is None or not line.startswith(said, at):
            return False
        found = _ROOT.match(line, at + len(said))
        made = merkle.root_of(leaves)
        if found is None or found[1].decode() != made or int(found[3]) != seq - 1:
            return False
        self.pending = self.since, seq, prev, made, self.root, found[4], found[2]
        self.since, self.root = seq, made
        self.roots += 1
        if seq > self.task.noted:
            time = found[4].decode()
            self.after_head = self.after_head[0] or time, time
        return True

    def compute(self) -> bool:
        """Is the part's last signature good? It covers all before it."""
        if self.pending is None:
            return True
        assert self.key is not None
        since, seq, prev, root, previous, time, signature = self.pending
        self.pending = None
        self.computed += 1
        end = chain.Link(seq - 1, prev.decode())
        payload = receipts.root(self.task.log, since, end, root, previous, time.decode(), self.task.kid)
        return self.key.signed(keys.canonical(payload), signature.decode())
