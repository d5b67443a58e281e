"""Which programs a host gets."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from agentd.errors import AgentdError
from agentd.kernel import prepare
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
