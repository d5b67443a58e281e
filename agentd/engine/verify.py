"""Proof instead of a claim: a canary tries each kernel operation, untagged and then as an agent that may do nothing.

The canary agent is installed beside the policy in the same tables, and its processes are marked, judged and ended by
the same programs as everybody's; only its events come here instead of into the log. An operation is verified when

    untagged    the attempt worked (or this kernel has no such call: then there is nothing to hold)
    prevented   tagged, the attempt failed with EPERM and nothing came about
    contained, detected    its process was killed before it could go on; whether something came about is the difference
    and the kernel said so, with the operation, the point and the guarantee that are claimed;
    or, for the seccomp point, the supervisor did: the child has the filter that `agentd run` installs;
    and every program that judges it is attached, as it was when agentd attached it.

Library calls can't be tried: what a function does is its own. While a policy asks for them it is looked whether their
probes stand as they were set.

A probe that fails is made once more, by a new canary, before it counts: a canary can be killed by anybody.

An operation that was verified once and is not any more is an `enforcement_failed` record; its return is
`enforcement_verified`.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agentd.audit.record import Record
from agentd.engine import coverage, records
from agentd.engine.census import PROBES
from agentd.engine.coverage import Cover
from agentd.engine.policies import CANARY, PolicySet
from agentd.engine.supervision import Supervision
from agentd.engine.trial import Came, Canary, Steps, Wait, drive
from agentd.errors import AgentdError
from agentd.kernel import abi, canary, recursion, seccomp
from agentd.kernel.hooks import Need, judging
from agentd.kernel.loader import LoadedObject
from agentd.kernel.notify.device import take_listener
from agentd.kernel.ring import KernelEvent
from agentd.kernel.tasks import TaskMarks
from agentd.metrics import Metrics
from agentd.model import ALWAYS_OPS, Guarantee, Op, Point

EVENT_SECONDS: Final = 0.5
BEFORE: Final = coverage.INLINE | {Point.SECCOMP}  # points that see a call that would fail anyway
# What the filter refuses by itself: nobody is asked, and nothing is told.
STATIC: Final = frozenset({Op.BPF, Op.MODULE, Op.KEXEC, Op.IO_URING, Op.PERF})
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
    void: bool = False  # there is nothing to try, on this kind of host

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
        supervision: Supervision,
        metrics: Metrics,
        *,
        record: Callable[[Record], None],
        pump: Callable[[], int],
        calls: Callable[[], str | None],
    ) -> None:
        """calls: LibraryCalls.broken."""
        self.proofs: dict[Op, Proof] = {}
        self.started: dict[Op, Proof] = {}  # of the seccomp point, where that is what holds workloads of agentd run
        self.on_change: Callable[[Proof], None] | None = None  # is told a proof that failed, or that no longer does
        self.checked = 0.0  # when the last round ended, in seconds since the epoch; 0: never
        self._loaded = loaded
        self._marks = marks
        self._policies = policies
        self._supervision = supervision
        self._metrics = metrics
        self._record = record
        self._pump = pump
        self._calls = calls
        self._seen: list[KernelEvent] = []
        self._canary: Canary | None = None
        self._open: frozenset[Point] = frozenset()  # the points whose programs can be passed by
        mine = [coverage.main(self.claims(), op) for op in ALWAYS_OPS]
        mine += self._supervised()
        metrics.declare_enforcement((c.kind.op.word, c.point.word, c.guarantee.word) for c in mine if c.guarantee)

    def claims(self, *, started: bool = False) -> list[Cover]:
        """Which point judges each kind of operation here. started: of workloads that `agentd run` starts."""
        return coverage.of_host(Point(self._loaded.control.point), self._loaded.prevented, started=started)

    def _supervised(self) -> list[Cover]:
        """What the seccomp point holds."""
        started = self.claims(started=True)
        return [c for op in ALWAYS_OPS if (c := coverage.main(started, op)).point is Point.SECCOMP]

    @property
    def skipped(self) -> dict[str, int]:
        """See LoadedObject.skipped(); what was never skipped is left out."""
        return {name: count for name, count in self._loaded.skipped().items() if count}

    @property
    def told(self) -> bool:
        """See LoadedObject.told."""
        return self._loaded.told

    def saw(self, event: KernelEvent) -> None:
        """An event of the canary."""
        self._seen.append(event)

    def run(self) -> list[Proof]:
        """Tries everything, and waits for it."""
        return drive(self.steps())

    def steps(self) -> Steps[list[Proof]]:
        """Tries everything, one operation after the other. One round at a time: the canary's events are its own.

        Does not raise: what can't be tried has failed. The programs stay attached, until they rest (core.py).
        """
        claims = self.claims()
        self._open = frozenset(p for p in {cover.point for cover in claims} if recursion.open_to_all(p))
        try:
            covers = [coverage.main(claims, op) for op in ALWAYS_OPS]
            for cover in covers + self._supervised():
                proof = yield from self._try(cover)
                if proof.failed:
                    yield from self._end_canary()
                    proof = yield from self._try(cover)
                self._take(cover.kind.op, proof)
            yield from self._end_canary()
        finally:
            if self._canary:
                self._canary.kill()
                self._canary = None
        self.check_calls()
        self.checked = time.time()
        return list(self.proofs.values())

    def check_calls(self) -> None:
        """Looks whether the probes for library calls stand, if the policy in force asks for any."""
        cover, broken = coverage.main(self.claims(), Op.CALL), self._calls()
        claim = (cover.kind.op.word, cover.point.word, cover.guarantee.word)
        if broken is None:
            if self.proofs.pop(Op.CALL, None):
                self._metrics.set_verified(*claim, None)
            return
        if Op.CALL not in self.proofs:
            self._metrics.declare_enforcement([claim])
        self._take(Op.CALL, Proof(cover, not broken, True, broken or "its probes stand as they were set"))

    @property
    def failing(self) -> list[Proof]:
        """What the last probes showed not to hold."""
        return [proof for proof in (*self.proofs.values(), *self.started.values()) if proof.failed]

    def status(self) -> dict[str, Any]:
        """For `agentd status` and the socket."""
        everything = (*self.proofs.values(), *self.started.values())
        return {"checked": self.checked, "operations": [in_json(proof) for proof in everything]}

    def _take(self, op: Op, proof: Proof) -> None:
        cover = proof.cover
        proofs = self.started if cover.point is Point.SECCOMP else self.proofs
        before = proofs.get(op)
        proofs[op] = proof
        verified = None if proof.void else proof.verified
        self._metrics.set_verified(op.word, cover.point.word, cover.guarantee.word, verified, proof.failed)
        if proof.failed == (before.failed if before else False):
            return
        if self.on_change:
            self.on_change(proof)
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

    def _end_canary(self) -> Steps[None]:
        process, self._canary = self._canary, None
        if process:
            yield from process.end()

    def _try(self, cover: Cover) -> Steps[Proof]:
        try:
            slot = self._policies.canary_slot()
            self._loaded.watch()
            gone = sorted(self._loaded.broken() & judging(cover.kind.op))
            if gone and cover.point is not Point.SECCOMP:
                return Proof(cover, False, True, f"{gone[0]} is not attached as agentd left it")
            if cover.guarantee is Guarantee.NONE:
                return Proof(cover, False, False, "not tried: nothing judges it on this kind of host", void=True)
            if cover.point in self._open:
                return Proof(
                    cover, False, True, "NOT HELD: this kernel leaves programs out at times, and nothing judges"
                )
            if cover.kind.op.word not in canary.ATTEMPTS:
                return Proof(cover, False, False, "not tried: there is no harmless attempt")
            self._canary = self._canary or Canary()
            return (yield from self._try_attached(self._canary, slot, cover))
        except OSError as error:
            return Proof(cover, False, True, f"the canary failed: {error.strerror or error}")
        except AgentdError as error:
            return Proof(cover, False, True, f"the canary could not be tagged: {error.what}: {error.why}")

    def _try_attached(self, process: Canary, slot: int, cover: Cover) -> Steps[Proof]:
        """With the programs that are there for this alone while no policy needs them."""
        if cover.kind.op is not Op.EXECMEM:
            return (yield from self._try_with(process, slot, cover))
        self._loaded.watch_for(Need.CODE_PROBE, True)
        try:
            return (yield from self._try_with(process, slot, cover))
        finally:
            self._loaded.watch_for(Need.CODE_PROBE, False)

    def _try_with(self, process: Canary, slot: int, cover: Cover) -> Steps[Proof]:
        op, supervised = cover.kind.op, cover.point is Point.SECCOMP
        control = yield from process.attempt(op.word, lambda pid, listener: None)
        expected = canary.FAIL_ANYWAY.get(op.word, 0)
        if control.returned in NO_SUCH_CALL or (op is Op.COMPAT and control.signal):
            return Proof(cover, False, False, "not tried: this kernel has no such call", control.ns, void=True)
        if expected and control.returned == errno.EPERM:
            return Proof(cover, False, False, "not tried: it is refused to everybody here (lockdown?)", void=True)
        if control.returned != expected or (not expected and not control.effect):
            return Proof(cover, False, False, f"not tried: untagged it fails here, {control.words()}", control.ns)
        if expected and cover.point not in BEFORE:
            return Proof(cover, False, False, "not tried: it could be seen only if it succeeded", control.ns, void=True)
        self._seen.clear()
        program = seccomp.program(supervised=True) if supervised else b""
        tagged = yield from process.attempt(op.word, lambda pid, listener: self._mark(pid, slot, listener), program)
        self._marks.forget_doom(PROBES)  # a denied rename or link ends the whole workload: the next is another one
        alone = supervised and op in STATIC
        event = None if alone else (yield from self._event(op))
        return self._judge(cover, control, tagged, event, alone)

    def _mark(self, pid: int, slot: int, listener: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            self._marks.mark_process(pidfd, slot, PROBES, supervised=listener >= 0)
            if listener >= 0:
                self._supervision.supervise(pidfd, take_listener(pidfd, listener))
        finally:
            os.close(pidfd)

    def _judge(self, cover: Cover, control: Came, tagged: Came, event: KernelEvent | None, alone: bool) -> Proof:
        """alone: nothing is told of it."""
        times = (control.ns, tagged.ns)
        prevented = tagged.returned == errno.EPERM and not tagged.effect
        killed = tagged.signal == signal.SIGKILL and tagged.returned != 0
        what = "EPERM, no effect" if prevented else tagged.words()
        if not tagged.attempted:
            return Proof(cover, False, True, f"tagged, it could not be attempted: {what}", *times)
        if event is None and not alone:
            return Proof(cover, False, True, f"tagged: {what}, and the kernel reported nothing", *times)
        if not (prevented or (killed and cover.guarantee is not Guarantee.PREVENTED)):
            return Proof(cover, False, True, f"NOT HELD: tagged: {what}", *times)
        if event and (event.point is not cover.point or event.guarantee < cover.guarantee):
            said = f"{event.guarantee.word} by {event.point.word}"
            return Proof(cover, False, True, f"tagged: {what}; reported is {said}", *times)
        return Proof(cover, True, True, f"untagged it worked; tagged: {what}", *times)

    def _event(self, op: Op) -> Steps[KernelEvent | None]:
        """The kernel's word for it."""
        deadline = time.monotonic() + EVENT_SECONDS
        while True:
            self._pump()
            found = next((e for e in self._seen if e.op is op and e.type == abi.EVENT_VIOLATION), None)
            if found or time.monotonic() > deadline:
                return found
            yield Wait(-1, 0.001)


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
