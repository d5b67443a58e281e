"""minimum_guarantee: an agent that this host can't protect as its policy demands is not started."""

from __future__ import annotations

import pytest

from agentd.engine import coverage
from agentd.kernel import lsm
from agentd.model import Guarantee, Op, Point
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
