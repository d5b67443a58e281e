"""What `agentd doctor` says: for each kernel operation the point, guarantee, proof, and what is weak."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from agentd.engine import coverage, verify
from agentd.engine.coverage import Cover
from agentd.engine.verify import Proof, Verification
from agentd.kernel import lsm, recursion
from agentd.model import ALWAYS_OPS, Guarantee, Op, Point

PROVED: Final = ("verified", "tried", "proof", "untagged_us", "tagged_us")
HELD, SOME_DETECTED, CANNOT = 0, 1, 2  # exit codes of `agentd doctor`
NOTES: Final = {
    Point.LSM: ("operations are judged in the kernel's LSM hooks, by programs of the kind lsm", "nothing to do"),
    Point.FMOD_RET: (
        "bpf is not in this kernel's list of security modules; fmod_ret programs judge the same hooks",
        "add lsm=...,bpf to the kernel command line, or nothing: fmod_ret already covers it",
    ),
    Point.NONE: (
        "this kernel loads no LSM or fmod_ret programs (it has no BPF trampolines, or refuses them)",
        "boot a kernel that has them (those of Debian, Ubuntu, Fedora and SUSE do); agentd run refuses bpf, modules,"
        " kexec, io_uring and perf by itself",
    ),
}
JUDGING: Final = frozenset(
    {"exec_loaded", "signal_delivered", "syscall_returned", "task_forked"}
)  # where there are no hooks
REMEDIES: Final = {  # of what passes programs by
    Point.LSM: "boot Linux 6.1.54, 6.2 or newer",
    Point.FMOD_RET: "add bpf to lsm= on the kernel command line",
    Point.NONE: "boot a kernel with BPF trampolines and bpf in lsm=, or one before 7.0",
}
PASSED_OVER: Final = (
    "bpf is not in this kernel's list of security modules, and it preempts tasks inside of it: it would leave fmod_ret"
    " programs out at times, so the points exec, cgroup, trace and seccomp judge instead",
    "add lsm=...,bpf to the kernel command line (lsm programs are not left out), or start agents with agentd run",
)


def rows(covers: Collection[Cover], started: Collection[Cover], ops: Sequence[Op] = ALWAYS_OPS) -> list[dict[str, Any]]:
    """One row an operation. covers: of processes that were tagged; started: of workloads of `agentd run`; weaker: the
    first have less of it.
    """
    return [
        {
            "operation": op.word,
            "point": coverage.main(covers, op).point.word,
            "guarantee": coverage.in_words(covers, op),
            "started_point": coverage.main(started, op).point.word,
            "started": coverage.in_words(started, op),
            "weaker": coverage.guarantees(covers, op) < coverage.guarantees(started, op),
        }
        for op in ops
    ]


def of(verification: Verification, hooks: Point, calls: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What the last round of probes showed. hooks: what the LSM hooks are on this host. calls: the library calls of
    each workload (status.py).
    """
    proofs = verification.proofs
    ops = [*ALWAYS_OPS, *({Op.CALL} & proofs.keys())]  # where the policy asks for it
    covers, started = verification.claims(), verification.claims(started=True)
    made = rows(covers, started, ops)
    for row, op in zip(made, ops, strict=True):
        row.update(verify.in_json(proofs[op]) | {"guarantee": row["guarantee"]})
        if op in verification.started:
            supervised = verify.in_json(verification.started[op])
            row.update({f"started_{name}": supervised[name] for name in PROVED})
    everything = [*proofs.values(), *verification.started.values()]
    passed_over = lsm.passed_over()
    weak = weak_spots(covers, started, everything, hooks, told=verification.told, passed_over=passed_over)
    note, remedy = PASSED_OVER if passed_over else NOTES[hooks]
    return {
        "hooks": hooks.word,
        "note": note,
        "remedy": remedy,
        "operations": made,
        "skipped": verification.skipped,
        "calls": list(calls),
        "weak": [
            *skipped_spots(hooks, recursion.skips(hooks), recursion.preempts(), verification.skipped),
            *weak,
            *unseen_spots(calls),
        ],
        "exit": verdict(covers, everything),
    }


def verdict(covers: Collection[Cover], proofs: Collection[Proof]) -> int:
    """0: all is prevented or contained; 1: some is only detected; 2: something is not held as it is claimed."""
    if any(proof.failed for proof in proofs):
        return CANNOT
    return SOME_DETECTED if any(cover.guarantee < Guarantee.CONTAINED for cover in covers) else HELD


def skipped_spots(hooks: Point, skips: bool, preempts: bool | None, skipped: Mapping[str, int]) -> list[dict[str, Any]]:
    """Calls that pass a program by: recursion.py. preempts: does this kernel? skipped: how often that was."""
    found = []
    remedy = (
        REMEDIES[hooks]
        + ", or preempt=none where the kernel has it (echo none > /sys/kernel/debug/sched/preempt until the next boot)"
    )
    judging = [name for name in skipped if name.startswith("lsm_") or (hooks is Point.NONE and name in JUDGING)]
    if judging:
        times = sum(skipped[name] for name in judging)
        found.append(
            {
                "kinds": sorted(judging),
                "reason": f"the kernel has left these programs out {times} times, for whichever process that was: they"
                " were under way on the same processor, and such a call is not judged",
                "remedy": remedy,
            }
        )
    elif skips and preempts is not False:
        how = "preempts tasks inside of it" if preempts else "may preempt tasks inside of it (it doesn't say)"
        found.append(
            {
                "kinds": ["every operation that a hook judges" if hooks is not Point.NONE else "all but seccomp's"],
                "reason": f"this kernel {how}, and leaves a program of this kind out that is under way on the same"
                " processor: such a call is not judged",
                "remedy": remedy,
            }
        )
    return found


def unseen_spots(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What no probe for library calls can be set in, of files that workloads run now."""
    found: dict[tuple[str, str], list[str]] = {}
    for workload in calls:
        for one in workload["unseen"]:
            found.setdefault((one["file"], one["has"]), []).append(str(workload["workload"]))
    remedy = "let `network` decide what it may reach, or have it use a library that can be probed"
    return [
        {
            "kinds": [f"call, of workload {', '.join(numbers)}"],
            "reason": f"not judged: {file} has {has}, and no library call shows what it does",
            "remedy": remedy,
        }
        for (file, has), numbers in found.items()
    ]


def weak_spots(
    covers: Sequence[Cover],
    started: Sequence[Cover],
    proofs: Sequence[Proof],
    hooks: Point,
    *,
    told: bool = True,
    passed_over: bool = False,
) -> list[dict[str, Any]]:
    """Each with the kinds it is about, the reason and the remedy; the worst first. told: see LoadedObject.told;
    passed_over: see lsm.py.
    """
    found: dict[tuple[str, str], list[str]] = {}
    hooked = "lsm=...,bpf on the kernel command line" if passed_over else "a kernel with BPF trampolines"

    def add(name: str, reason: str, remedy: str) -> None:
        names = found.setdefault((reason, remedy), [])
        names += [name] if name not in names else []

    for proof in proofs:
        if proof.failed:
            add(
                proof.cover.kind.op.word,
                f"the probe failed: {proof.text}",
                "don't rely on it: stop the agents that may not do it, and report this",
            )
    for cover, better in zip(covers, started, strict=True):
        if cover.guarantee >= Guarantee.CONTAINED:
            continue
        if hooks is not Point.NONE and not cover.kind.hooks:
            reason, remedy = "no LSM hook sees this part, so it is judged after the call", "none but a newer agentd"
        elif cover.guarantee is Guarantee.NONE:
            reason, remedy = "without LSM hooks nothing judges it", hooked
        else:
            reason, remedy = "without LSM hooks it is judged after the call", hooked
        if better.guarantee > cover.guarantee:
            remedy = f"start the agent with agentd run: {better.guarantee.word} by {better.point.word}"
        how = f"only {cover.guarantee.word}" if cover.guarantee else "not judged"
        add(cover.kind.name, f"{how}: {reason}", remedy)
    if not told:
        add(
            Op.EXEC.word,
            "the kernel didn't tell agentd its addresses (kernel.kptr_restrict is 2): a program whose arguments decide"
            " is refused, because they can't be read before it runs, and every file's path is walked each time",
            "sysctl kernel.kptr_restrict=1, then restart agentd (root is told; others still aren't)",
        )
    for proof in proofs:
        if not proof.tried and proof.cover.guarantee is not Guarantee.NONE:
            remedy = "none needed where the kernel has no such call"
            if "fails here" in proof.text:
                remedy = "let the canary make this call: a hardened unit or a container may forbid it"
            add(proof.cover.kind.op.word, f"no proof: {proof.text}", remedy)
    return [{"kinds": kinds, "reason": reason, "remedy": remedy} for (reason, remedy), kinds in found.items()]
