"""Proof instead of a claim: a canary tries each kernel operation, untagged and then as an agent that may do nothing.

The canary agent is installed beside the policy in the same tables, and its processes are marked, judged and ended by
the same programs as everybody's; only its events come here instead of into the log. An operation is verified when

    untagged    the attempt worked (or this kernel has no such call: then there is nothing to hold)
    prevented   tagged, the attempt failed with EPERM and nothing came about
    contained, detected    its process was killed before it could go on; whether something came about is the difference
    and the kernel said so, with the operation, the point and the guarantee that are claimed.

An operation that was verified once and is not any more is an `enforcement_failed` record; its return is
`enforcement_verified`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd.audit.record import Record
from agentd.engine import coverage, records
from agentd.engine.census import PROBES
from agentd.engine.coverage import Cover
from agentd.engine.policies import CANARY, PolicySet
from agentd.errors import AgentdError
from agentd.kernel import abi, canary
from agentd.kernel.loader import LoadedObject
from agentd.kernel.ring import KernelEvent
from agentd.kernel.tasks import TaskMarks
from agentd.metrics import Metrics
from agentd.model import Guarantee, Op, Point

SCRIPT: Final = Path(canary.__file__)
ANSWER_SECONDS: Final = canary.TIMEOUT + 5
EVENT_SECONDS: Final = 0.5
NO_SUCH_CALL: Final = frozenset({errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


@dataclass(frozen=True, slots=True)
class Proof:
    """What trying an operation showed. tried: false when it can't be tried harmlessly here; then verified is false, and
    says nothing against it. Times in ns; 0: not known.
    """

    cover: Cover
    verified: bool
    tried: bool
    text: str
    untagged_ns: int = 0
    tagged_ns: int = 0

    @property
    def failed(self) -> bool:
        """It was tried, and what is claimed is not so."""
        return self.tried and not self.verified


class Verification:
    """The probes of one engine. record, pump: the engine's."""

    def __init__(
        self,
        loaded: LoadedObject,
        marks: TaskMarks,
        policies: PolicySet,
        metrics: Metrics,
        *,
        record: Callable[[Record], None],
        pump: Callable[[], int],
    ) -> None:
        self.proofs: dict[Op, Proof] = {}
        self.checked = 0.0  # when the last round ended, in seconds since the epoch; 0: never
        self._loaded = loaded
        self._marks = marks
        self._policies = policies
        self._metrics = metrics
        self._record = record
        self._pump = pump
        self._seen: list[KernelEvent] = []
        metrics.declare_enforcement((c.kind.op.word, c.point.word, c.guarantee.word) for c in self.claims())

    def claims(self, *, started: bool = False) -> list[Cover]:
        """Which point judges each kind of operation here. started: of workloads that `agentd run` starts."""
        return coverage.of_host(Point(self._loaded.control.point), self._loaded.prevented, started=started)

    def saw(self, event: KernelEvent) -> None:
        """An event of the canary."""
        self._seen.append(event)

    def run(self) -> list[Proof]:
        """Tries everything."""
        for _ in self.steps():
            pass
        return list(self.proofs.values())

    def steps(self) -> Iterator[Proof]:
        """Tries everything, one operation a step, so that others can have a turn in between."""
        slot = self._policies.canary_slot()
        resting = not self._loaded.watching
        claims = self.claims()
        with _Canary() as process:
            for op in Op:
                proof = self._try(process, slot, coverage.main(claims, op))
                self._take(op, proof)
                yield proof
        self.checked = time.time()
        if resting and self._loaded.watching and self._marks.none_left():
            self._loaded.unwatch()

    def status(self) -> dict[str, Any]:
        """For `agentd status` and the socket."""
        return {"checked": self.checked, "operations": [in_json(proof) for proof in self.proofs.values()]}

    def _take(self, op: Op, proof: Proof) -> None:
        before = self.proofs.get(op)
        self.proofs[op] = proof
        cover = proof.cover
        self._metrics.set_verified(op.word, cover.point.word, cover.guarantee.word, proof.verified, proof.failed)
        if proof.failed == (before.failed if before else False):
            return
        self._record(
            dataclasses.replace(
                records.note(
                    "enforcement_failed" if proof.failed else "enforcement_verified",
                    f"{op.word} ({cover.point.word}, {cover.guarantee.word}): {proof.text}",
                    agent=CANARY,
                ),
                point=cover.point,
                guarantee=cover.guarantee,
                kernel_operation=op,
            )
        )

    def _try(self, process: _Canary, slot: int, cover: Cover) -> Proof:
        op = cover.kind.op
        if cover.guarantee is Guarantee.NONE:
            return Proof(cover, False, False, "not tried: nothing judges it on this kind of host")
        if op.word not in canary.ATTEMPTS:
            return Proof(cover, False, False, "not tried: there is no harmless attempt")
        try:
            control = process.attempt(op.word, lambda pid: None)
            expected = canary.FAIL_ANYWAY.get(op.word, 0)
            if control.returned in NO_SUCH_CALL or (op is Op.COMPAT and control.signal):
                return Proof(cover, False, False, "not tried: this kernel has no such call", control.ns)
            if control.returned != expected or (not expected and not control.effect):
                return Proof(cover, False, False, f"not tried: untagged it fails here, {control.words()}", control.ns)
            if expected and cover.point not in coverage.INLINE:
                return Proof(cover, False, False, "not tried: it could be seen only if it succeeded", control.ns)
            self._seen.clear()
            tagged = process.attempt(op.word, lambda pid: self._mark(pid, slot))
            self._marks.forget_doom(PROBES)  # a denied rename or link ends the whole workload: the next is another one
            return self._judge(cover, control, tagged)
        except OSError as error:
            return Proof(cover, False, True, f"the canary failed: {error.strerror or error}")

    def _mark(self, pid: int, slot: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            self._marks.mark_process(pidfd, slot, PROBES)
        finally:
            os.close(pidfd)

    def _judge(self, cover: Cover, control: _Came, tagged: _Came) -> Proof:
        event = self._event(cover.kind.op)
        times = (control.ns, tagged.ns)
        prevented = tagged.returned == errno.EPERM and not tagged.effect
        killed = tagged.signal == signal.SIGKILL and tagged.returned != 0
        what = "EPERM, no effect" if prevented else tagged.words()
        if not tagged.attempted:
            return Proof(cover, False, True, f"tagged, it could not be attempted: {what}", *times)
        if event is None:
            return Proof(cover, False, True, f"tagged: {what}, and the kernel reported nothing", *times)
        if not (prevented or (killed and cover.guarantee is not Guarantee.PREVENTED)):
            return Proof(cover, False, True, f"NOT HELD: tagged: {what}", *times)
        if event.point is not cover.point or event.guarantee < cover.guarantee:
            said = f"{event.guarantee.word} by {event.point.word}"
            return Proof(cover, False, True, f"tagged: {what}; reported is {said}", *times)
        return Proof(cover, True, True, f"untagged it worked; tagged: {what}", *times)

    def _event(self, op: Op) -> KernelEvent | None:
        """The kernel's word for it."""
        deadline = time.monotonic() + EVENT_SECONDS
        while True:
            self._pump()
            found = next((e for e in self._seen if e.op is op and e.type == abi.EVENT_VIOLATION), None)
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.001)


def in_json(proof: Proof) -> dict[str, Any]:
    """A proof for programs. Times in microseconds, None: not known."""
    cover = proof.cover
    return {
        "operation": cover.kind.op.word,
        "point": cover.point.word,
        "guarantee": cover.guarantee.word,
        "verified": proof.verified,
        "tried": proof.tried,
        "proof": proof.text,
        "untagged_us": round(proof.untagged_ns / 1000, 1) or None,
        "tagged_us": round(proof.tagged_ns / 1000, 1) or None,
    }


@dataclass(frozen=True, slots=True)
class _Came:
    """What came of one attempt; see canary.py."""

    attempted: bool
    returned: int
    signal: int
    effect: bool
    ns: int

    def words(self) -> str:
        """For a person."""
        effect = "the effect came about" if self.effect else "no effect"
        if self.signal:
            return f"{signal.Signals(self.signal).name}, {effect}"
        return f"it worked, {effect}" if self.returned == 0 else f"errno {self.returned}, {effect}"


class _Canary:
    """The canary's process, for one round. Raises OSError where it fails to answer."""

    def __enter__(self) -> _Canary:
        self._folder = tempfile.mkdtemp(prefix="agentd-canary-")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SCRIPT), self._folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/",
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)

    def attempt(self, name: str, ready: Callable[[int], None], program: bytes = b"") -> _Came:
        """One attempt. ready: is told the child's number before it goes on. program: a seccomp filter for it."""
        self._say(f"try {name} {program.hex()}")
        pid = self._answer().get("pid")
        if not isinstance(pid, int):
            raise OSError(errno.EPROTO, f"{name} could not be prepared")
        try:
            ready(pid)
        except (AgentdError, OSError):
            self._say("stop")
            self._answer()
            raise
        self._say("go")
        answer = self._answer()
        return _Came(**answer)

    def _say(self, text: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise OSError(errno.ETIMEDOUT, "it doesn't answer")
        line = self._process.stdout.readline()
        if not line:
            raise OSError(errno.EPIPE, "it ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OSError(errno.EIO, str(answer["error"]))
        return answer
