"""The service proves what it claims, again and again; what has less than its policy demands doesn't go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import urllib.request

import pytest

from agentd.engine import coverage
from agentd.kernel import lsm
from agentd.model import Guarantee, Op, Point
from tests.live.service import Service, Sleeper, bot, state, until

pytestmark = pytest.mark.root


def metrics(service: Service) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def verified(service: Service, operation: str) -> str:
    """The value of agentd_enforcement_verified for an operation."""
    found = re.search(rf'agentd_enforcement_verified{{[^}}]*operation="{operation}"[^}}]*}} (\S+)', metrics(service))
    assert found
    return found[1]


def take_away(service: Service) -> str:
    """Detaches, from outside, one of the programs that judge connections: its name."""
    links = {path.name.rpartition("-")[0]: path for path in (service.pins / "links").iterdir()}
    if pin := links.get("net_connect6"):
        subprocess.run(["bpftool", "link", "detach", "pinned", pin], check=True)
        return "net_connect6"
    links["lsm_socket_connect"].unlink()  # the kernel detaches no LSM link; without a pin it would end with agentd
    return "lsm_socket_connect"


def enough() -> Guarantee:
    """The least that this host gives to a tagged process."""
    inline = lsm.point()
    return min(cover.guarantee for cover in coverage.of_host(inline, set(Op) if inline is not Point.NONE else ()))


def test_a_link_that_is_gone_is_noticed_by_the_service() -> None:
    """Its probes pass at the start; when a link is detached: metric, record, one line; an agent that demands more than
    nothing is paused or killed and not started, others go on; and all is well after a restart.
    """
    agents = {
        "bot": bot(),
        "paused": bot(minimum_guarantee="detected"),
        "killed": bot(minimum_guarantee="contained", below_minimum="kill"),
    }
    demanding = enough() is Guarantee.PREVENTED
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(Service(agents, metrics=True, probe_seconds=1))
        free, paused, killed = (stack.enter_context(Sleeper()) for _ in range(3))
        service.tag(free.pid)
        if demanding:
            service.tag(paused.pid, "paused")
            service.tag(killed.pid, "killed")
            assert service.run("cat", "/dev/null", agent="paused").returncode == 0, "the control"
        until(lambda: verified(service, "connect") == "1.0", "the first round")
        assert verified(service, "read") == verified(service, "exec") == "1.0"
        assert not service.records("enforcement_failed") and service.said == ""

        name = take_away(service)
        failed = until(lambda: service.records("enforcement_failed"), "a probe that fails")[0]
        assert (failed["kernel_operation"], failed["guarantee"]) == ("connect", "prevented")
        assert verified(service, "connect") == "0.0" and verified(service, "bind") == "1.0"
        assert 'agentd_enforcement_failures_total{operation="connect"}' in metrics(service)
        line = until(lambda: service.said, "the line")
        assert line.count("\n") == 1 and line.startswith("agentd: connect (prevented by ") and name in line, line
        if demanding:
            until(lambda: state(paused.pid) == "T", "the pause")
            until(lambda: killed.process.poll() == -signal.SIGKILL, "the end")
            told = until(lambda: two if len(two := service.records("below_minimum")) >= 2 else None, "their records")
            handled = {record["agent_id"]: record["metadata"]["handled"] for record in told}
            assert handled == {"paused": "pause", "killed": "kill"}
            refused = service.run("cat", "/dev/null", agent="paused")
            assert refused.returncode == 125 and "a probe failed: connect" in refused.stderr, refused
        assert service.cli("doctor").returncode == 2
        assert "FAILED: connect" in service.cli("status").stdout
        assert free.do("open", "/etc/hostname") == "ok"
        assert service.run("cat", "/dev/null").returncode == 0

        assert service.end() == 0
        service.start()
        until(lambda: service.call("status")["verification"]["checked"], "the first round")
        assert verified(service, "connect") == "1.0"
        assert service.cli("doctor").returncode != 2
        if demanding:
            assert paused.do("open", "/etc/hostname") == "ok"
            until(lambda: service.records("workload_resumed"), "its record")
            assert service.run("cat", "/dev/null", agent="paused").returncode == 0


def test_running_workloads_get_what_a_reload_demands() -> None:
    """When a reload demands more than this host gives, running workloads are paused, whoever sends SIGCONT, or killed;
    a restarted agentd keeps them so, and they go on when the demand is gone. Where it gives that, they just go on.
    """
    demand = {"minimum_guarantee": "prevented"}
    given = enough() is Guarantee.PREVENTED
    with Service({"bot": bot(), "other": bot()}) as service, Sleeper() as stays, Sleeper() as ends:
        service.tag(stays.pid)
        service.tag(ends.pid, "other")
        assert stays.do("open", "/etc/hostname") == ends.do("open", "/etc/hostname") == "ok"
        service.write_policy({"bot": bot(**demand), "other": bot(**demand, below_minimum="kill")})
        assert service.reload().returncode == 0
        if given:
            service.call("doctor")
            assert stays.do("open", "/etc/hostname") == ends.do("open", "/etc/hostname") == "ok"
            return
        until(lambda: state(stays.pid) == "T", "the pause")
        until(lambda: ends.process.poll() == -signal.SIGKILL, "the end")
        assert [w["workload"] for w in service.call("status")["below_minimum"]]
        count = len(service.records("below_minimum"))
        assert count == 2
        os.kill(stays.pid, signal.SIGCONT)
        until(lambda: state(stays.pid) == "T", "the pause again")
        service.crash()
        assert state(stays.pid) == "T"
        service.start()
        service.call("doctor")
        until(lambda: service.call("status")["below_minimum"], "the restarted agentd's look")
        assert state(stays.pid) == "T" and not service.records("workload_resumed")
        service.write_policy({"bot": bot(), "other": bot()})
        assert service.reload().returncode == 0
        assert stays.do("open", "/etc/hostname") == "ok"
        until(lambda: service.records("workload_resumed"), "its record")


def test_a_running_process_that_matches_is_held_all_the_same() -> None:
    """A process that a match: rule finds is tagged although the host gives less than demanded, and handled so."""
    with Sleeper(env={"AGENT_ID": "canary-test"}) as found:
        matched = bot(match=[{"env": {"AGENT_ID": "canary-test"}}], minimum_guarantee="prevented")
        with Service({"bot": matched}) as service:
            assert found.pid in service.pids()
            if enough() is Guarantee.PREVENTED:
                assert found.do("open", "/etc/hostname") == "ok"
                return
            until(lambda: state(found.pid) == "T", "the pause")
            told = until(lambda: service.records("below_minimum"), "its record")
            assert told[0]["metadata"]["handled"] == "pause"
