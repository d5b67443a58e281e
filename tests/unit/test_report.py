"""What `agentd doctor` concludes from what its probes showed."""

from __future__ import annotations

from agentd.engine import coverage, report
from agentd.engine.coverage import Cover
from agentd.engine.verify import Proof
from agentd.model import Guarantee, Op, Point

HOOKED = coverage.of_host(Point.LSM, set(Op))
BARE = coverage.of_host(Point.NONE, ())


def proof(cover: Cover, *, verified: bool = True, tried: bool = True) -> Proof:
    return Proof(cover, verified, tried, "as it is")


def test_the_exit_code_is_the_worst_of_all() -> None:
    """2 for a probe that failed, 1 where a part is only detected, else 0; what can't be tried changes nothing."""
    held = [cover for cover in HOOKED if cover.guarantee >= Guarantee.CONTAINED]
    assert report.verdict(held, [proof(held[0])]) == report.HELD
    assert report.verdict(held, [proof(held[0], verified=False, tried=False)]) == report.HELD
    assert report.verdict(BARE, [proof(BARE[0])]) == report.SOME_DETECTED
    assert report.verdict(held, [proof(held[0], verified=False)]) == report.CANNOT


def test_every_weak_spot_has_a_reason_and_a_remedy() -> None:
    """All kinds that are only detected are among the weak spots, and a failed probe stands first."""
    started = coverage.of_host(Point.NONE, (), started=True)
    bad = proof(coverage.main(BARE, Op.CONNECT), verified=False)
    spots = report.weak_spots(BARE, started, [bad], Point.NONE)
    assert spots[0]["kinds"] == ["connect"] and "failed" in spots[0]["reason"]
    named = {kind for spot in spots for kind in spot["kinds"]}
    assert {cover.kind.name for cover in BARE if cover.guarantee is Guarantee.DETECTED} <= named
    assert all(spot["reason"] and spot["remedy"] for spot in spots)
    better = next(spot for spot in spots if "bpf" in spot["kinds"])
    assert "agentd run" in better["remedy"]


def test_a_program_that_the_kernel_skips_is_a_weak_spot() -> None:
    """Where it may happen, with a remedy; where it has happened, with how often, as long as a program judges."""
    assert not report.skipped_spots(Point.LSM, False, True, {})
    assert not report.skipped_spots(Point.FMOD_RET, True, False, {"task_exited": 9})
    for preempts in (True, None):
        (spot,) = report.skipped_spots(Point.FMOD_RET, True, preempts, {})
        assert "add bpf to lsm=" in spot["remedy"] and "preempt=none" in spot["remedy"]
    (spot,) = report.skipped_spots(Point.NONE, True, True, {})
    assert "before 7.0" in spot["remedy"] and "seccomp" in spot["kinds"][0]
    (spot,) = report.skipped_spots(Point.NONE, True, True, {"task_exited": 1, "syscall_returned": 5})
    assert spot["kinds"] == ["syscall_returned"] and "5 times" in spot["reason"]
    (spot,) = report.skipped_spots(Point.LSM, True, True, {})
    assert "6.1.54" in spot["remedy"]
    (spot,) = report.skipped_spots(Point.FMOD_RET, True, False, {"lsm_file_open": 2, "lsm_capable": 1})
    assert spot["kinds"] == ["lsm_capable", "lsm_file_open"] and "3 times" in spot["reason"]


def test_where_fmod_ret_is_passed_over_the_remedy_is_another_one() -> None:
    """What is weak without hooks is mended by the list of security modules there, and not by another kernel."""
    for passed_over, remedy in ((True, "lsm=...,bpf"), (False, "trampolines")):
        spots = report.weak_spots(BARE, BARE, [], Point.NONE, passed_over=passed_over)
        (spot,) = [spot for spot in spots if "signal" in spot["kinds"]]
        assert remedy in spot["remedy"]


def test_a_kernel_that_hides_its_addresses_is_a_weak_spot_with_a_remedy() -> None:
    """It changes what is refused and what it costs, and no guarantee."""
    held = [cover for cover in HOOKED if cover.guarantee >= Guarantee.CONTAINED]
    spots = report.weak_spots(held, held, [], Point.LSM, told=False)
    assert [spot["kinds"] for spot in spots] == [["exec"]]
    assert "kptr_restrict" in spots[0]["reason"] and "sysctl" in spots[0]["remedy"]
    assert not report.weak_spots(held, held, [], Point.LSM)
