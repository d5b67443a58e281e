"""Resolved rules: which rule decides, what is done, and that the indexed look-up says what a plain reading says."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.model import Action, Decision, Endpoint, Family, Guarantee, Mode, Op, Risk
from agentd.policy.evaluate import decide, endpoint_of, evaluate, matched_groups, matched_patterns
from agentd.policy.ir import Match, MatchKind
from agentd.policy.resolve import RULE_DEFAULT, RULE_UNRESOLVED, Outcome, ResolvedAgent, load

POLICY = """
version: 1
tools:
  payments:
    charge: [{connect: ["192.0.2.10:443"], risk: critical}]
  notes:
    edit: [{write: ["./notes/**"], create: ["./notes/**"], risk: low}]
agents:
  bot:
    match: [{user: 1000}, {systemd_unit: "bot-*.service"}, {env: {A: b, C: d}}]
    workspace: /srv/b[o]t
    on_violation: kill
    minimum_guarantee: contained
    below_minimum: kill
    audit: strict
    library_calls: required
    allow:
      - {tool: file_reader, operations: [read], paths: ["./safe/**", "~/x", "/etc/*.conf", "."]}
      - {tool: notes}
      - {tool: network, hosts: ["127.0.0.0/8", "10.0.0.0/8:9000"]}
      - {tool: shell, operations: [execute], risk_level_max: medium}
      - {tool: git, paths: ["/usr/bin/git"]}
    require_approval:
      - {tool: email, timeout: 90s}
      - {id: ask-push, tool: git, operations: [push]}
    deny:
      - {tool: shell, operations: [rm], action: deny}
      - {tool: payments, action: pause, timeout: 60}
      - {tool: git, risk_level_max: low, operations: [log]}
  watched: {mode: monitor, deny: [{tool: runtime}]}
"""


@pytest.fixture(scope="module")
def agents() -> dict[str, ResolvedAgent]:
    return dict(load(POLICY.encode(), workspace="/ignored").agents)


def told(agent: ResolvedAgent, outcome: Outcome) -> tuple[str, str, str]:
    rule = agent.rules[outcome.rule].id if outcome.rule >= 0 else str(outcome.rule)
    return "/".join(agent.toolops[outcome.toolop]), rule, outcome.action.word


@pytest.mark.parametrize(
    ("op", "obj", "argv", "expected"),
    [
        ("read", "/srv/b[o]t/safe/x/y", "", ("file_reader/read", "bot/allow/0", "none")),
        ("read", "/srv/b[o]t", "", ("file_reader/read", "bot/allow/0", "none")),
        ("read", "/srv/bot/safe/x", "", ("file_reader/read", "-1", "kill")),
        ("read", "/root/x", "", ("file_reader/read", "bot/allow/0", "none")),
        ("read", "/home/me/x", "", ("file_reader/read", "bot/allow/0", "none")),
        ("read", "/home/me/deep/x", "", ("file_reader/read", "-1", "kill")),
        ("read", "/etc/a.conf", "", ("file_reader/read", "bot/allow/0", "none")),
        ("read", "/etc/a/b.conf", "", ("file_reader/read", "-1", "kill")),
        ("read", "/etc/hosts", "", ("runtime/load", "bot/baseline/0", "none")),
        ("write", "/srv/b[o]t/notes/n", "", ("notes/edit", "bot/allow/1", "none")),
        ("delete", "/srv/b[o]t/notes/n", "", ("file/delete", "-1", "kill")),
        ("connect", "10.1.2.3:9000", "", ("network/connect", "bot/allow/2", "none")),
        ("connect", "10.1.2.3:9001", "", ("network/connect", "-1", "kill")),
        ("connect", "[::ffff:127.0.0.1]:9001", "", ("network/connect", "bot/allow/2", "none")),
        ("connect", "192.0.2.10:443", "", ("payments/charge", "bot/deny/1", "pause")),
        ("connect", "192.0.2.10:25", "", ("email/send", "bot/require_approval/0", "pause")),
        ("exec", "/bin/rm", "rm x", ("shell/rm", "bot/deny/0", "deny")),
        ("exec", "/bin/ls", "ls", ("shell/execute", "bot/allow/3", "none")),
        ("exec", "/usr/bin/git", "git push", ("git/push", "ask-push", "pause")),
        ("exec", "/usr/bin/git", "git log", ("git/log", "bot/deny/2", "kill")),
        ("exec", "/usr/bin/git", "git add", ("git/add", "bot/allow/4", "none")),
        ("exec", "/opt/git", "git add", ("git/add", "-1", "kill")),
        ("namespace", "unshare:user", "", ("host/namespace", "-1", "kill")),
    ],
)  # fmt: skip
def test_a_kernel_operation_is_decided(
    agents: dict[str, ResolvedAgent], op: str, obj: str, argv: str, expected: tuple[str, str, str]
) -> None:
    """An operation is named by the first entry that matches it and decided by the first rule that covers it."""
    kind = Op[op.upper()]
    target = endpoint_of(obj) if kind.family is Family.HOST else obj.encode()
    outcome = decide(agents["bot"], kind, target, argv.encode().split())
    assert told(agents["bot"], outcome) == expected


def test_timeouts_are_the_rules_own() -> None:
    """A held operation waits as long as its rule says, five minutes without a word, and nothing else waits."""
    agent = load(POLICY.encode(), workspace="/x").agents["bot"]
    assert decide(agent, Op.CONNECT, endpoint_of("192.0.2.10:25")).timeout == 90
    assert decide(agent, Op.CONNECT, endpoint_of("192.0.2.10:443")).timeout == 60
    assert decide(agent, Op.EXEC, b"/usr/bin/git", [b"git", b"push"]).timeout == 300
    assert decide(agent, Op.EXEC, b"/bin/rm", [b"rm"]).timeout == 0


def test_what_an_agent_says_about_itself_is_kept(agents: dict[str, ResolvedAgent]) -> None:
    """Match, mode, guarantee and audit come through typed."""
    bot = agents["bot"]
    assert bot.match == (
        Match(MatchKind.USER, "1000"),
        Match(MatchKind.SYSTEMD_UNIT, "bot-*.service"),
        Match(MatchKind.ENV, "", (("A", "b"), ("C", "d"))),
    )
    assert (bot.workspace, bot.mode, bot.on_violation) == ("/srv/b[o]t", Mode.ENFORCE, Action.KILL)
    assert (bot.minimum_guarantee, bot.strict_audit) == (Guarantee.CONTAINED, True)
    assert (bot.below_minimum, bot.calls_required) == (Action.KILL, True)


def test_monitor_decides_and_does_nothing(agents: dict[str, ResolvedAgent]) -> None:
    """In monitor mode every decision stands and no action follows, not even for what is unresolved."""
    outcome = decide(agents["watched"], Op.READ, b"/etc/hosts")
    assert (outcome.decision, outcome.action) == (Decision.DENY, Action.NONE)
    assert agents["watched"].unresolved(Op.READ).action is Action.NONE


@pytest.mark.parametrize("op", Op, ids=lambda op: op.word)
def test_what_is_unresolved_is_denied(agents: dict[str, ResolvedAgent], op: Op) -> None:
    """No object, or one that matches nothing at all, is denied with the rule `unresolved`."""
    bot = agents["bot"]
    for outcome in (decide(bot, op, None), bot.outcome(op, frozenset())):
        assert (outcome.decision, outcome.action, outcome.rule) == (Decision.DENY, Action.KILL, RULE_UNRESOLVED)


RUNTIME = "{tool: runtime, operations: [generate]}"
MAPS = "tools: {plugins: {load: [{execmem: ['/opt/**']}]}}"


@pytest.mark.parametrize(
    ("agent", "tools", "path", "everything"),
    [
        ("deny: [{tool: shell}, {tool: file_reader}]", "", b"/x", True),
        ("deny: [{tool: shell, paths: ['/x']}]", "", b"/x", True),
        (f"deny: [{RUNTIME}]", "", b"anon:memory", False),
        (f"require_approval: [{RUNTIME}]", "", b"anon:memory", False),
        (f"mode: monitor, deny: [{RUNTIME}]", "", b"anon:memory", False),
        ("deny: [{tool: runtime, paths: ['/x']}]", "", b"/x", False),
        ("deny: [{tool: '*', paths: ['/x']}]", "", b"/x", True),  # the baseline is denied by its name only
        ("deny: [{tool: runtime, risk_level_max: medium}]", "", b"/x", False),
        ("allow: [{tool: shell}]", MAPS, b"/opt/x", False),  # what a policy's own tools take is denied by default
        ("allow: [{tool: plugins, paths: ['/opt/x']}]", MAPS, b"/opt/y", False),
        ("allow: [{tool: plugins}]", MAPS, b"/opt/x", True),
    ],
)
def test_whether_all_executable_memory_is_allowed(agent: str, tools: str, path: bytes, everything: bool) -> None:
    """Then the programs that judge it need not be attached. `path`: where it shows."""
    document = f"version: 1\n{tools}\nagents: {{bot: {{{agent}}}}}\n"
    bot = load(document.encode(), workspace="/w").agents["bot"]
    decision = decide(bot, Op.EXECMEM, path).decision
    assert bot.allows_all(Op.EXECMEM) is everything
    assert (decision is Decision.ALLOW) is everything


def test_the_hash_covers_the_policy() -> None:
    """Another policy has another hash, the same bytes the same."""
    one, two = (load(text, workspace="/w").sha256 for text in (b"agents: {}", b"agents: {} "))
    assert one != two
    assert one == load(b"agents: {}", workspace="/other").sha256


def plain(agent: ResolvedAgent, op: Op, obj: bytes | Endpoint, argv: list[bytes]) -> tuple[int, tuple[str, str], Risk]:
    """The same decision, read off the rules one by one."""
    matched, groups = matched_patterns(agent, obj), matched_groups(agent, argv)
    entry = next(
        entry
        for entry in agent.entries
        if entry.op is op and matched & set(entry.patterns) and (entry.group is None or entry.group in groups)
    )
    for rule in agent.rules:
        if rule.tool not in (None, entry.tool):
            continue
        if rule.operations is not None and entry.operation not in rule.operations:
            continue
        if rule.risk_max is not None and entry.risk > rule.risk_max:
            continue
        limits = rule.paths if op.family is Family.PATH else rule.hosts
        if (rule.paths is None and rule.hosts is None) or matched & set(limits or ()):
            return rule.index, (entry.tool, entry.operation), entry.risk
    return RULE_DEFAULT, (entry.tool, entry.operation), entry.risk


@functools.cache
def bot() -> ResolvedAgent:
    return load(POLICY.encode(), workspace="/x").agents["bot"]


OBJECTS = st.sampled_from(
    [b"/srv/b[o]t/safe/x", b"/srv/b[o]t/notes/a", b"/etc/a.conf", b"/etc/hosts", b"/usr/bin/git", b"/bin/rm",
     b"/bin/ls", b"/root/x", b"/root/.ssh/id_rsa", b"/dev/null", b"anon:pipefs", b"unshare:user"]
) | st.binary(max_size=20)  # fmt: skip
ENDPOINTS = st.builds(
    Endpoint,
    st.sampled_from([b"\x7f\0\0\1", b"\x0a\1\2\3", b"\xc0\0\2\x0a"]) | st.binary(min_size=16, max_size=16),
    st.sampled_from([0, 25, 53, 443, 9000]), st.sampled_from(["tcp", "udp"]),
)  # fmt: skip
ARGV = st.lists(st.sampled_from([b"git", b"push", b"log", b"rm", b"-delete", b"x", b""]), max_size=4)


@settings(max_examples=300)
@given(st.sampled_from(Op), OBJECTS, ENDPOINTS, ARGV)
def test_the_look_up_says_what_a_plain_reading_says(op: Op, path: bytes, endpoint: Endpoint, argv: list[bytes]) -> None:
    """Plans and indexes change the cost of a decision, never the decision."""
    agent = bot()
    obj = path if op.family is Family.PATH else endpoint
    outcome = decide(agent, op, obj, argv)
    rule, toolop, risk = plain(agent, op, obj, argv if op is Op.EXEC else [])
    assert (outcome.rule, agent.toolops[outcome.toolop], outcome.risk) == (rule, toolop, risk)


def test_a_tool_call_is_judged_with_paths_and_hosts(agents: dict[str, ResolvedAgent]) -> None:
    """In version 1 a rule's paths and hosts limit tool calls too, and `..` leads where it leads."""
    bot = agents["bot"]

    def ask(tool: str, operation: str, **more: object) -> Decision:
        return evaluate(bot, tool, operation, **more).decision  # type: ignore[arg-type]

    assert ask("file_reader", "read", paths=["safe/x"]) is Decision.ALLOW
    assert ask("file_reader", "read", paths=["safe/../x"]) is Decision.DENY
    assert ask("file_reader", "read") is Decision.DENY
    assert ask("network", "connect", hosts=["127.0.0.1:1"]) is Decision.ALLOW
    assert ask("network", "connect", hosts=["192.0.2.1:1"]) is Decision.DENY
    assert ask("shell", "execute", risk=Risk.HIGH) is Decision.DENY
    assert ask("shell", "execute", risk=Risk.MEDIUM) is Decision.ALLOW
