"""Which programs a host gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import patch

import pytest

from agentd.errors import AgentdError
from agentd.kernel import lsm, prepare
from agentd.model import Point


@pytest.mark.parametrize("cgroup", [True, False])
def test_a_host_where_nothing_could_judge_the_network_is_refused(cgroup: bool) -> None:
    """Without LSM hooks the network needs cgroup programs that know whose a socket is; without those nothing starts."""
    with patch("agentd.kernel.prepare.cgroup_programs", return_value=cgroup):
        if cgroup:
            assert any(hook.point is Point.CGROUP for hook in prepare._choose_hooks(0, Point.NONE))
            return
        with pytest.raises(AgentdError) as caught:
            prepare._choose_hooks(0, Point.NONE)
    assert caught.value.code == "kernel-unsupported"


@pytest.mark.parametrize("version", ["#1 SMP PREEMPT_DYNAMIC Debian 6.16.1-1", "#1 SMP PREEMPT_RT Debian 6.16.1-1"])
def test_a_host_where_core_dumps_cannot_be_kept_from_is_refused(version: str) -> None:
    """Without LSM hooks PREEMPT_RT is refused: a signal sent under its receiver's lock would wait for that lock."""
    names = os.uname()
    told = os.uname_result((*names[:3], version, names[4]))
    with (
        patch("agentd.kernel.prepare.cgroup_programs", return_value=True),
        patch("agentd.kernel.prepare.os.uname", return_value=told),
    ):
        if "PREEMPT_RT" not in version:
            assert any(hook.program == "signal_delivered" for hook in prepare._choose_hooks(0, Point.NONE))
            return
        with pytest.raises(AgentdError, match="add bpf to lsm=") as caught:
            prepare._choose_hooks(0, Point.NONE)
    assert (caught.value.code, caught.value.exit_code) == ("kernel-unsupported", 125)


@pytest.fixture
def chosen_anew() -> Iterator[None]:
    """What is found out once is found out again, for this test alone."""
    for found in (lsm.point, lsm.passed_over):
        found.cache_clear()
    yield
    for found in (lsm.point, lsm.passed_over):
        found.cache_clear()


@pytest.mark.usefixtures("chosen_anew")
@pytest.mark.parametrize(
    ("runs", "passable", "cgroup", "taken"),
    [
        (Point.LSM, {Point.LSM}, True, Point.LSM),  # there is nothing better
        (Point.FMOD_RET, set(), True, Point.FMOD_RET),
        (Point.FMOD_RET, {Point.FMOD_RET}, True, Point.NONE),
        (Point.FMOD_RET, {Point.FMOD_RET}, False, Point.FMOD_RET),  # nothing else could judge the network
        (Point.FMOD_RET, {Point.FMOD_RET, Point.TRACE}, True, Point.FMOD_RET),  # the others are no better
        (Point.NONE, {Point.FMOD_RET}, True, Point.NONE),
    ],
)
def test_hooks_that_can_be_passed_by_are_not_taken(
    runs: Point, passable: set[Point], cgroup: bool, taken: Point
) -> None:
    """Where fmod_ret programs may be left out, the other points judge, if they are not; else the best that runs."""
    with ExitStack() as stack:
        stack.enter_context(patch("agentd.kernel.lsm._kind", return_value=runs))
        stack.enter_context(patch("agentd.kernel.lsm.recursion.open_to_all", passable.__contains__))
        stack.enter_context(patch("agentd.kernel.lsm.cgroup_programs", return_value=cgroup))
        assert lsm.point() is taken
        assert lsm.passed_over() == (taken is not runs)
