"""minimum_guarantee: an agent that this host can't protect as its policy demands is not started."""

from __future__ import annotations

import json

import pytest

from agentd.engine import coverage
from agentd.kernel import lsm
from agentd.model import ALWAYS_OPS, Guarantee, Op, Point
from tests.live.service import Service, Sleeper, agentd, bot

pytestmark = pytest.mark.root


def test_a_workload_is_not_started_below_its_minimum() -> None:
    """Run and tag are refused with one line where an operation is guaranteed less than the policy wants; else not."""
    inline = lsm.point()
    given = coverage.of_host(inline, set(Op) if inline is not Point.NONE else (), started=True)
    enough = min(cover.guarantee for cover in given)
    wanted = {
        "bot": bot(),
        "modest": bot(minimum_guarantee="detected"),
        "careful": bot(minimum_guarantee="contained"),
        "strict": bot(minimum_guarantee="prevented"),
    }
    with Service(wanted) as service:
        minimums = (Guarantee.NONE, Guarantee.DETECTED, Guarantee.CONTAINED, Guarantee.PREVENTED)
        for agent, minimum in zip(wanted, minimums, strict=True):
            mark = service.folder / agent
            done = service.run("cat", "/dev/null", agent=agent)
            if minimum <= enough:
                assert done.returncode == 0, done
                continue
            done = service.run("touch", mark, agent=agent)
            assert done.returncode == 125 and not mark.exists(), done
            assert done.stderr.count("\n") == 1 and f"wants everything {minimum.word}" in done.stderr, done.stderr
        assert service.run("cat", "/dev/null").returncode == 0, "the control"
        with Sleeper() as sleeper:
            words = ("tag", "--socket", service.socket, "--agent", "strict", "--pid", str(sleeper.pid))
            assert agentd(*words).returncode == (0 if enough is Guarantee.PREVENTED else 1)
            assert not service.tasks() or enough is Guarantee.PREVENTED


def test_what_a_tag_gives_is_shown_before_anything_is_tagged() -> None:
    """--try shows the table and tags nothing; what seccomp can't hold of a running process is named, in both forms, and
    exit 1 says that the tag would be refused.
    """
    inline = lsm.point()
    tagged, started = (
        coverage.of_host(inline, set(Op) if inline is not Point.NONE else (), started=run) for run in (False, True)
    )
    weaker = {one.kind.op.word for one, other in zip(tagged, started, strict=True) if one.guarantee < other.guarantee}
    with Service({"bot": bot(), "strict": bot(minimum_guarantee="prevented")}) as service, Sleeper() as sleeper:
        done = service.cli("tag", "--agent", "bot", "--try", "--json")
        found = json.loads(done.stdout)
        assert done.returncode == 0 and found["refused"] is None
        assert {row["operation"] for row in found["enforcement"] if row["weaker"]} == weaker
        assert {row["operation"] for row in found["enforcement"]} == {op.word for op in ALWAYS_OPS}
        text = service.cli("tag", "--agent", "bot", "--try").stdout
        assert (
            f"weaker than under agentd run: {', '.join(op.word for op in Op if op.word in weaker) or 'nothing'}" in text
        )
        refused = service.cli("tag", "--agent", "strict", "--try", "--json")
        enough = min(cover.guarantee for cover in tagged if cover.kind.op is not Op.CALL)
        assert refused.returncode == (0 if enough is Guarantee.PREVENTED else 1), refused
        assert bool(json.loads(refused.stdout)["refused"]) == (enough is not Guarantee.PREVENTED)
        assert not service.tasks() and not service.call("status")["workloads"]
        assert service.cli("tag", "--agent", "nobody", "--try").returncode == 1
        service.tag(sleeper.pid)
        assert service.tasks(), "the control"
