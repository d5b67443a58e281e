"""`agentd doctor` and the probes behind it: what is claimed is tried, and what doesn't hold is found."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.daemon.places import BPFFS_RUNS
from agentd.engine import coverage, report
from agentd.engine.census import PROBES
from agentd.kernel import canary, recursion
from agentd.kernel.libbpf import library
from agentd.kernel.pins import unpin_links
from agentd.model import ALWAYS_OPS, Guarantee, Op, Point
from agentd.workloads.processes import start_ticks
from tests.live.harness import agent, enforcing
from tests.live.service import Service, agentd, bot

pytestmark = pytest.mark.root
MAY_BE_MISSING = {"module", "kexec", "compat", "namespace", "perf", "io_uring"}  # calls that some kernels don't have

# Made by a thread of its own a second or two after a start, which is before the end of the probes on a loaded machine.
SIGNATURES = {"signing_key", "signed"}


def test_every_operation_is_tried_and_holds(tmp_path: Path) -> None:
    """Each operation works untagged and comes to its guarantee tagged; the agents' records show nothing of it."""
    with enforcing(tmp_path, {"bot": agent()}) as host:
        before = host.engine.audit.head.seq
        proofs = host.engine.verification.run()
        assert {proof.cover.kind.op for proof in proofs} == set(ALWAYS_OPS)
        assert not [proof for proof in proofs if proof.failed]
        unproved = {proof.cover.kind.op.word for proof in proofs if not proof.verified and proof.cover.guarantee}
        assert unproved <= MAY_BE_MISSING
        started = host.engine.verification.started
        assert bool(started) == host.engine.supervises
        assert {op.word for op, proof in started.items() if not proof.verified} <= MAY_BE_MISSING
        host.until(lambda: not host.engine.supervision.of(PROBES), "the end of the canaries' supervisors")
        host.engine.tick()
        host.engine.flush()
        assert not [r for r in host.records(before) if r["event"] not in SIGNATURES]
        assert not host.engine.status()["workloads"]
        shown = host.engine.metrics.exposition()
        assert re.search(r'agentd_enforcement_verified{guarantee="\w+",operation="delete",point="\w+"} 1.0', shown)
        values = dict(re.findall(r'agentd_enforcement_verified{[^}]*operation="(\w+)"[^}]*} (\S+)', shown))
        assert set(values) == {proof.cover.kind.op.word for proof in proofs if not proof.void}
        zero = {op for op, value in values.items() if value != "1.0"}
        assert zero <= MAY_BE_MISSING, "what can't be tried has no series, or it would be an alarm for ever"


def test_a_point_that_is_gone_is_found(tmp_path: Path) -> None:
    """With the programs that judge it detached, a probe fails: a record and the metric; and both again later."""
    with enforcing(tmp_path, {"bot": agent()}) as host:
        engine = host.engine
        control = engine.verification.run()
        assert not [proof for proof in control if proof.failed]
        gone = [name for name in engine.loaded.links() if re.search("bind", name)]
        unpin_links(engine.loaded.pins, engine.loaded.control.epoch, gone)
        for name in gone:
            library().bpf_link__destroy(engine.loaded._links.pop(name))
        failed = [proof for proof in engine.verification.run() if proof.failed]
        assert [proof.cover.kind.op for proof in failed] == [Op.BIND]
        assert "it worked" in failed[0].text
        assert report.verdict(engine.verification.claims(), failed) == report.CANNOT
        record = [r for r in host.records() if r["event"] not in SIGNATURES][-1]
        assert (record["event"], record["kernel_operation"]) == ("enforcement_failed", "bind")
        shown = engine.metrics.exposition()
        assert 'agentd_enforcement_failures_total{operation="bind"} 1.0' in shown
        assert re.search(r'agentd_enforcement_verified{guarantee="prevented",operation="bind",point="\w+"} 0.0', shown)
        engine.loaded.unwatch()
        engine.verification.run()  # a mark attaches the programs, all of them
        assert [r for r in host.records() if r["event"] not in SIGNATURES][-1]["event"] == "enforcement_verified"


def test_a_supervisor_that_lets_things_pass_is_found(tmp_path: Path) -> None:
    """The seccomp point is tried by itself: if it denies nothing its probes fail, and doctor says so."""
    with enforcing(tmp_path, {"bot": agent()}) as host:
        if not host.engine.supervises:
            pytest.skip("there are LSM hooks on this host: nothing is supervised")
        engine = host.engine
        engine.verification.run()
        assert not engine.verification.failing, "the control"
        slot = engine.policies.canary_slot()
        engine.policies.in_force[slot] = replace(engine.policies.in_force[slot], monitor=True)
        engine.verification.run()
        failed = {proof.cover.kind.op: proof.text for proof in engine.verification.failing}
        assert Op.DELETE in failed and Op.CREATE in failed and Op.BPF not in failed
        assert failed[Op.DELETE] == "NOT HELD: tagged: it worked, the effect came about"
        assert all(proof.cover.point is Point.SECCOMP for proof in engine.verification.failing)
        found = report.of(engine.verification, Point.NONE)
        assert found["exit"] == report.CANNOT
        assert "delete" in next(spot for spot in found["weak"] if "NOT HELD" in spot["reason"])["kinds"]
        shown = engine.metrics.exposition()
        assert 'agentd_enforcement_verified{guarantee="prevented",operation="delete",point="seccomp"} 0.0' in shown


def test_what_a_workload_can_get_past_is_said_not_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel may leave programs out, every probe of theirs fails, whatever came of a single attempt; what the
    filter of agentd run holds is not theirs.
    """
    with enforcing(tmp_path, {"bot": agent()}) as host:
        verification = host.engine.verification
        hooks = Point(host.engine.loaded.control.point)
        verification.run()
        assert not verification.failing, "the control"
        monkeypatch.setattr(recursion, "skips", lambda point: point not in (Point.SECCOMP, Point.UPROBE))
        monkeypatch.setattr(recursion, "preempts", lambda: True)
        verification.run()
        held = {op for op, proof in verification.proofs.items() if not proof.failed}
        assert held <= {Op.EXECMEM}, "which nothing judges where there are no hooks"
        assert not [proof for proof in verification.started.values() if proof.failed]
        found = report.of(verification, hooks)
        assert found["exit"] == report.CANNOT
        assert "leaves a program of this kind out" in found["weak"][0]["reason"] and found["weak"][0]["remedy"]


@pytest.mark.parametrize("by", ["bpftool", "pin"])
def test_a_link_that_another_process_takes_away_is_found(tmp_path: Path, by: str) -> None:
    """A link that is detached from outside, or whose pin is removed, fails the probe of what its program judges."""
    with enforcing(tmp_path, {"bot": agent()}) as host:
        engine = host.engine
        assert not [proof for proof in engine.verification.run() if proof.failed], "the control"
        # No attempt goes over IPv6: what fails is known by the link alone.
        name = "net_connect6" if "net_connect6" in engine.loaded.links() else "lsm_socket_connect"
        pin = engine.loaded.pins / "links" / f"{name}-{engine.loaded.control.epoch}"
        if by == "bpftool" and name == "net_connect6":
            subprocess.run(["bpftool", "link", "detach", "pinned", pin], check=True)
        else:
            pin.unlink()
        failed = [proof for proof in engine.verification.run() if proof.failed]
        assert [proof.cover.kind.op for proof in failed] == [Op.CONNECT]
        assert name in failed[0].text


@pytest.mark.parametrize("on_violation", ["kill", "pause"])
def test_a_reload_leaves_the_canary_as_it_is(tmp_path: Path, on_violation: str) -> None:
    """What a policy says about its own agents says nothing about the canary, also after it was loaded again."""
    with enforcing(tmp_path, {"bot": agent(on_violation=on_violation)}) as host:
        assert not [proof for proof in host.engine.verification.run() if proof.failed]
        host.engine.install(host.compiled)
        assert not [proof for proof in host.engine.verification.run() if proof.failed]


def test_doctor_without_a_service(tmp_path: Path) -> None:
    """It loads the programs itself, exits by what the host gives, and leaves nothing pinned."""
    before = set(BPFFS_RUNS.glob("*"))
    done = agentd("doctor", "--json")
    found = json.loads(done.stdout)
    weakest = min(cover.guarantee for cover in coverage.of_host(Point[found["hooks"].upper()], _prevented(found)))
    assert done.returncode == found["exit"] == (report.SOME_DETECTED if weakest < Guarantee.CONTAINED else report.HELD)
    assert {row["operation"] for row in found["operations"]} == {op.word for op in ALWAYS_OPS}
    assert all(row["untagged_us"] for row in found["operations"] if row["tried"])
    left = {folder for folder in BPFFS_RUNS.glob("*") if start_ticks(int(folder.name.partition("-")[0])) is None}
    assert left <= before  # of agentds that are gone: others may run on this machine
    text = agentd("doctor").stdout
    assert "reason" in text and "remedy" in text


def _prevented(found: dict[str, list[dict[str, str]]]) -> set[Op]:
    return {Op[row["operation"].upper()] for row in found["operations"] if row["point"] in ("lsm", "fmod_ret")}


def test_doctor_asks_the_service() -> None:
    """A service that runs is asked, and tries its own programs; its log shows nothing of the canary."""
    with Service({"bot": bot()}) as service:
        done = service.cli("doctor", "--json")
        assert json.loads(done.stdout)["by"] == "the service"
        assert done.returncode in (report.HELD, report.SOME_DETECTED), done.stderr
        assert not [record for record in service.records() if "canary" in json.dumps(record)]
        assert any(line.startswith("bind") and "EPERM" in line for line in service.cli("doctor").stdout.splitlines())


def test_doctor_says_who_may_not() -> None:
    """An unprivileged user gets one clear line and exit code 2."""
    done = agentd("doctor", user=65534, env={"HOME": "/"})
    assert done.returncode == report.CANNOT
    assert done.stderr.startswith("agentd: ") and len(done.stderr.splitlines()) == 1, done.stderr


def test_the_promises_are_printed_without_trying() -> None:
    """--table is the table of README, for anybody."""
    done = agentd("doctor", "--table", user=65534, env={"HOME": "/"})
    assert (done.returncode, done.stdout) == (0, coverage.markdown())


def test_every_operation_has_an_attempt() -> None:
    """An operation that no probe tries can't be proved."""
    assert {op.word for op in ALWAYS_OPS} == set(canary.ATTEMPTS)
