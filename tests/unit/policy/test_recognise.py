"""The rules of `match:`: which agent a process is, in user space and by the tables that the kernel walks."""

from __future__ import annotations

import functools
import os
from itertools import product

import pytest

from agentd.errors import AgentdError
from agentd.model import Op
from agentd.policy import recognise, resolve
from agentd.policy.recognise import UNTOLD, Looks, Recognition
from agentd.policy.resolved import ResolvedPolicy
from agentd.policy.tables import AgentTables, build
from agentd.policy.walk import lookup

POLICY = b"""
version: 1
agents:
  bot:
    match:
      - {systemd_unit: "research-*.service"}
      - {exe: "/opt/research/bin/agent"}
  my-bot:
    match:
      - {cgroup: "/system.slice/docker-*.scope"}
      - {env: {A: "*", B: "[b]"}}
  last:
    match: [{user: research}, {exe: "/usr/lib/systemd/*"}, {env: {B: "[b]"}}]
"""
USERS = {"research": 1007}
CGROUPS = (
    *("/", "/init.scope", "/system.slice/cron.service", "/system.slice/agentd.service", "/x/init.scope"),
    *("/system.slice/system-agentd\\x2dcanary.slice/agentd-canary@1.service", "/system.slice/docker-1.scope"),
    *("/system.slice/research-1.service", "/a/research-1.service/sub/b", "/system.slice/docker-1.scope/sub"),
    *("/agents.slice", "/agents.slice/agents-bot.slice/x.service", "/agents.slice/agents-bot.slice", "/agents.slice/y"),
    *("/agents.slice/agents-my.slice/agents-my-bot.slice/x.service", "/agents.slice/agents-my.slice/z.service"),
    *(
        "/agents.slice/agents-last.slice/x",
        "/agents.slice/agents-my\\x2dbot.slice/x.service",
        "/user.slice/agents.slice/agents-bot.slice/x",
    ),
)
PROGRAMS = (
    *("/bin/true", "/opt/research/bin/agent", "/opt/research/bin/agent2"),
    *("/usr/lib/systemd/systemd-executor", "/usr/lib/systemd/other"),
)
VARIABLES = ((), (b"A=*", b"B=[b]"), (b"A=1", b"B=[b]"), (b"A=*",), (b"A=*", b"B=b"), (b"",))


@functools.cache
def policy() -> ResolvedPolicy:
    return resolve.load_text(POLICY, "policy.yaml", workspace="/w")


@functools.cache
def rules(*, slices: bool = True) -> tuple[Recognition, ...]:
    return recognise.recognitions(policy(), USERS.get, slices=slices)


@functools.cache
def tables() -> AgentTables:
    donor = next(iter(policy().agents.values()))
    return build(recognise.agent_of(rules(), donor), max_words=1 << 22)


def looks(cgroup: str, program: str, uid: int, variables: tuple[bytes, ...], hosts_own: bool) -> Looks:
    return Looks(cgroup.encode(), program.encode(), uid, lambda: variables, lambda: hosts_own)


def by_tables(seen: Looks) -> Recognition | None:
    """As bpf/match.bpf.c does it: the smallest number of all the answers."""
    assert seen.cgroup is not None and seen.program is not None
    asked = [(Op.READ, seen.cgroup), (Op.EXEC, seen.program), (Op.PTRACE, b"uid:%d" % seen.uid)]
    asked += [(Op.CREATE, seen.program)] if seen.hosts_own() else []
    asked += [(Op.WRITE, variable) for variable in seen.environment() if variable]
    known, variables = rules(), recognise.variables_of(rules())
    bits = {text: bit for bit, text in enumerate(variables)}
    have, best = 0, len(known)
    for op, word in asked:
        number = lookup(tables(), op, word).toolop
        if number < len(known):
            best = min(best, number)
        elif number < len(known) + len(variables):  # behind them stand those of what matches nothing
            have |= 1 << (number - len(known))
    for number, rule in enumerate(known):
        needs = recognise.needs(rule, bits)
        if needs and have & needs == needs:
            best = min(best, number)
    return known[best] if best < len(known) else None


def test_the_tables_say_what_user_space_says() -> None:
    """For every cgroup, program, user and environment the kernel's tables answer with the rule that `first` finds."""
    met = set()
    for words in product(CGROUPS, PROGRAMS, (0, 1007), VARIABLES, (False, True)):
        seen = looks(*words)
        rule = recognise.first(rules(), seen)
        assert by_tables(seen) == rule, words
        met.add(rule)
    assert met == {*rules(), None}, "each rule decides somewhere"


@pytest.mark.parametrize(
    ("cgroup", "agent"),
    [
        ("/agents.slice/agents-bot.slice/x.service", "bot"),
        ("/agents.slice/agents-my.slice/agents-my-bot.slice/x.service", "my-bot"),
        ("/agents.slice/agents-my\\x2dbot.slice/x.service", "my-bot"),
        ("/agents.slice/agents-my.slice/z.service", "refused"),
        ("/agents.slice/agents-nobody.slice/x.service", "refused"),
        ("/agents.slice/y.service", "refused"),
        ("/user.slice/agents.slice/agents-bot.slice/x", None),
        ("/system.slice/cron.service", None),
    ],
)
def test_a_slice_is_an_agent_and_the_rest_of_agents_slice_may_not_run(cgroup: str, agent: str | None) -> None:
    """agents-NAME.slice is NAME, escaped or not; else below agents.slice it is refused; elsewhere it means nothing."""
    rule = recognise.first(rules(), looks(cgroup, "/bin/true", 0, (), True))
    assert (rule and (rule.agent or "refused")) == agent
    without = recognise.first(rules(slices=False), looks(cgroup, "/bin/true", 0, (), True))
    assert without is None


def test_agentd_and_the_hosts_systemd_are_nobody_but_a_containers_is_somebody() -> None:
    """agentd's own units and PID 1 are exempt, so is the host's executor in an agent's unit; a file that a container
    has under that name is judged like any program.
    """
    canary = f"{recognise.OWN_BELOW}/agentd-canary@1.service"
    for cgroup in (*recognise.OWN, canary):
        rule = recognise.first(rules(), looks(cgroup, "/opt/research/bin/agent", 1007, (), True))
        assert rule is not None and rule.exempt, cgroup
    for executor in recognise.EXECUTORS:
        place = "/system.slice/docker-1.scope"
        own, foreign = (recognise.first(rules(), looks(place, executor, 0, (), known)) for known in (True, False))
        assert own is not None and own.exempt
        assert foreign is not None and foreign.agent == "my-bot"


LABELLED = b"""
version: 1
agents:
  bot: {match: [{exe: /opt/agent}, {label: {a: b, "c.d/e": "*"}}, {label: {x: y}}]}
  last: {match: [{user: 1007}]}
"""


@pytest.mark.parametrize(
    ("program", "labels", "rule"),
    [
        ("/opt/agent", None, 1),
        ("/bin/true", None, "untold"),
        ("/bin/true", {}, 4),
        ("/bin/true", {"a": "b"}, 4),
        ("/bin/true", {"a": "b", "c.d/e": "f"}, 4),
        ("/bin/true", {"a": "b", "c.d/e": "*", "f": "g"}, 2),
        ("/bin/true", {"a": "b", "x": "y"}, 3),
    ],
)
def test_labels_decide_when_they_are_known_and_no_rule_before_them_does(
    program: str, labels: dict[str, str] | None, rule: int | str
) -> None:
    """All labels of a rule are needed, word for word; while they are not known nothing behind the rule decides."""
    found = recognise.recognitions(resolve.load_text(LABELLED, "p.yaml", workspace="/w"), USERS.get, slices=False)
    seen = Looks(b"/x", program.encode(), 1007, tuple, lambda: True, lambda: labels)
    assert recognise.first(found, seen) == (UNTOLD if rule == "untold" else found[int(rule)])


def test_the_kernel_asks_about_containers_and_nothing_else() -> None:
    """The tables name the first rule about labels for a container's cgroup, and none for another."""
    policy = resolve.load_text(LABELLED, "p.yaml", workspace="/w")
    found = recognise.recognitions(policy, USERS.get, slices=False)
    tables = build(recognise.agent_of(found, next(iter(policy.agents.values()))), max_words=1 << 22)
    id_ = "0a" * 32
    assert lookup(tables, Op.DELETE, b"/system.slice/docker-%s.scope/x" % id_.encode()).toolop == 2
    for other in (b"/system.slice/cron.service", b"/libpod-conmon-%s.scope" % id_.encode(), b"/"):
        assert lookup(tables, Op.DELETE, other).toolop >= len(found)
        assert lookup(tables, Op.READ, other).toolop >= len(found)


@pytest.mark.parametrize(
    ("match", "why"),
    [
        (", ".join(f'{{exe: "/p/{n}"}}' for n in range(recognise.MAX_RULES)), "rules"),
        (", ".join(f"{{env: {{V{n}: x}}}}" for n in range(recognise.MAX_VARIABLES + 1)), "variables"),
        (f'{{env: {{V: "{"x" * recognise.MAX_VARIABLE_BYTES}"}}}}', "bytes"),
    ],
)
def test_more_than_the_kernel_can_tell_apart_is_refused(match: str, why: str) -> None:
    """Too many rules or variables, or one that is too long, are an error of the policy, never cut."""
    text = f"version: 1\nagents:\n  bot:\n    match: [{match}]\n    allow: [{{tool: shell}}]\n"
    resolved = resolve.load_text(text.encode(), "policy.yaml", workspace="/w")
    with pytest.raises(AgentdError, match=why) as caught:
        recognise.recognitions(resolved, USERS.get, slices=False)
    assert caught.value.code == "policy-too-large"


def test_a_slice_says_more_than_any_rule() -> None:
    """What a unit's Slice= names is that agent, whatever `match:` of others says; else `match:` decides there too."""
    text = b"""version: 1
agents:
  lax: {match: [{user: research}, {cgroup: "/agents.slice/lax.service"}]}
  bot: {}
"""
    found = recognise.recognitions(resolve.load_text(text, "p.yaml", workspace="/w"), USERS.get, slices=True)

    def agent(cgroup: bytes, uid: int) -> str:
        rule = recognise.first(found, Looks(cgroup, b"/bin/x", uid, tuple, lambda: True))
        assert rule is not None
        return "killed" if rule.refuse else rule.agent

    uid = USERS["research"]
    assert agent(b"/agents.slice/agents-bot.slice/x.service", uid) == "bot"
    assert agent(b"/agents.slice/lax.service", 1) == agent(b"/user.slice", uid) == "lax"
    assert agent(b"/agents.slice/x.service", 1) == "killed"


def test_a_policy_that_recognises_nothing_asks_the_kernel_nothing() -> None:
    """Without a rule, and without slices, there are no tables and no exec is looked at."""
    text = b"version: 1\nagents:\n  bot:\n    allow: [{tool: shell}]\n"
    resolved = resolve.load_text(text, "policy.yaml", workspace=os.sep)
    assert recognise.recognitions(resolved, USERS.get, slices=False) == ()
    assert [rule.agent for rule in recognise.recognitions(resolved, USERS.get, slices=True)] == ["", "bot", ""]
