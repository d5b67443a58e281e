"""Hosts by name while one agentd goes and another comes: what was learned stays, and goes on being learned."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agentd.daemon import host as composition
from tests.live import harness
from tests.live.harness import Host, Workload
from tests.live.names import RESOLVER, WEB, World
from tests.live.test_names import EPERM, Resolver, agent, space, visitor, visits

__all__ = ["space"]  # the fixture

pytestmark = pytest.mark.root
STEPS = f"""
def step(name, code):
    while not os.path.exists(name):
        time.sleep(0.01)
    code()
    open(name + ".done", "w").close()
def first():
    ask("one.example.test"); visit({WEB[0]!r})
def alone():
    visit({WEB[0]!r}); visit({WEB[1]!r}); ask("two.example.test"); visit({WEB[1]!r})
def second():
    visit({WEB[0]!r}); visit({WEB[1]!r}); visit({WEB[2]!r}); ask("six.example.test", kind=28); visit({WEB[2]!r})
for name in ("first", "alone", "second"):
    step(sys.argv[1] + "/" + name, globals()[name])
"""


def go(host: Host | None, folder: Path, name: str) -> None:
    """Lets the program take a step; host: the engine that runs meanwhile."""
    (folder / name).touch()
    done = folder / f"{name}.done"
    if host:
        host.until(done.exists, f"the step {name}")
    else:
        harness.wait_for(done.exists, f"the step {name}")


def test_names_outlive_an_agentd(space: World, tmp_path: Path) -> None:
    """What was learned before and while no agentd ran is open under the next one, and nothing else is."""
    space.records = {
        ("one.example.test", "A"): [WEB[0]],
        ("two.example.test", "A"): [WEB[1]],
        ("six.example.test", "AAAA"): [WEB[2]],
    }
    agents, resolvers = {"bot": agent("*.example.test:443")}, [Resolver(socket.inet_aton(RESOLVER))]
    before = Host(tmp_path, agents, resolvers=resolvers)
    release = True
    try:
        workload = before.start([*visitor(space, STEPS), str(tmp_path)])
        go(before, tmp_path, "first")
        composition.stop(before.engine, release=False)
        release = False
        go(None, tmp_path, "alone")
    finally:
        if release:
            before.close()
    after = Host(tmp_path, agents, resolvers=resolvers, pins=before.engine.loaded.pins)
    try:
        known = {one.name for one in after.engine.names.known()}
        assert known == {"one.example.test", "two.example.test"}
        workload = Workload.under(after, workload)
        go(after, tmp_path, "second")
        assert visits(workload.wait()) == ["ok", "ok", EPERM, "ok", "ok", "ok", EPERM, "ok"]
        assert {one.name for one in after.engine.names.known()} == known | {"six.example.test"}
    finally:
        after.close()
