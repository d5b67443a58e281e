"""Proposals for rules, and the overlay that they go to."""

from __future__ import annotations

import json

import pytest

from agentd.model import Decision, Endpoint, Op
from agentd.policy.evaluate import decide
from agentd.policy.problem import PolicyError
from agentd.policy.resolve import Overlay, load
from agentd.policy.similar import proposals

POLICY = b"""version: 1
agents:
  bot:
    deny: [{tool: file_reader, paths: [/srv/x/no]}]
    require_approval: [{tool: file_reader, paths: [/srv/**]}, {tool: network, operations: [connect]}]
"""


def overlay(*rules: dict[str, object], **agents: object) -> Overlay:
    document = {"version": 1, "agents": {"bot": {"approved": list(rules)}, **agents}}
    return Overlay(json.dumps(document).encode(), "overlay.yaml")


def test_proposals_go_from_narrow_to_wide_and_all_cover_the_operation() -> None:
    """Each proposal covers what it was made from; none is as wide as a whole top-level folder; odd names are exact."""
    for path in (b"/srv/a/b/file", b"/srv/a/we[i]rd*?\\x", b"/srv/x", b"/x"):
        made = proposals(Op.READ, "file_reader", "read", path)
        assert made and all(one.covers("file_reader", "read", path) for one in made)
        assert not any(one.covers("file_reader", "write", path) for one in made)
        assert not made[0].covers("file_reader", "read", path + b"2")
        assert not any((one.paths or ("",))[0] in ("/**", "/srv/**", "/*") for one in made)
    address = Endpoint(b"\x0a\x01\x02\x03", 443, "tcp")
    made = proposals(Op.CONNECT, "network", "connect", address)
    assert [one.hosts for one in made] == [("10.1.2.3:443",), ("10.1.2.0/24:443",)]
    six = proposals(Op.CONNECT, "network", "connect", Endpoint(bytes(15) + b"\x02", 443, "tcp"))
    assert six and all(one.covers("network", "connect", Endpoint(bytes(15) + b"\x02", 443, "tcp")) for one in six)
    named = proposals(Op.CONNECT, "web", "fetch", Endpoint(b"\x0a\x01\x02\x03", 443, "tcp", ("a.b.example.com",)))
    assert [one.hosts for one in named] == [("a.b.example.com:443",), ("*.b.example.com:443",)]
    for unknown in (None, b"unshare:user", b"/srv/\xff"):
        assert not proposals(Op.READ, "t", "o", unknown)


def test_an_approved_rule_stands_between_deny_and_require_approval() -> None:
    """It allows what was asked about, nothing that is denied, and only for its agent; the policy's hash tells."""
    bare = load(POLICY, workspace="/")
    wide = load(POLICY, workspace="/", overlay=overlay({"tool": "file_reader", "paths": ["/srv/x/**"], "id": "r1"}))
    agent = wide.agents["bot"]
    outcome = decide(agent, Op.READ, b"/srv/x/yes")
    assert outcome.decision is Decision.ALLOW and agent.rules[outcome.rule].id == "r1"
    assert agent.rules[outcome.rule].where.startswith("overlay.yaml:")
    assert decide(agent, Op.READ, b"/srv/x/no").decision is Decision.DENY
    assert decide(agent, Op.READ, b"/srv/y").decision is Decision.REQUIRE_APPROVAL
    assert decide(bare.agents["bot"], Op.READ, b"/srv/x/yes").decision is Decision.REQUIRE_APPROVAL
    assert bare.sha256 != wide.sha256
    gone = load(POLICY, workspace="/", overlay=overlay(other={"approved": [{"tool": "x"}]}))
    assert set(gone.agents) == {"bot"}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"agents: {bot: {approved: [{tool: x}]}}", "version: 1"),
        (b"version: 1\nagents: {bot: {allow: [{tool: x}]}}", "allow"),
        (b"version: 1\nagents: {bot: {approved: [{tool: x, timeout: 5m}]}}", "asks nobody"),
        (b"version: 1\nagents: {bot: {approved: [{tool: x, approvers: 2}]}}", "asks nobody"),
        (b"version: 1\nagents: {bot: {approved: [{tool: x, paths: [/a/]}]}}", "trailing slash"),
        (b"version: 1\nagents: [", "overlay"),
        (b"version: 1\nmore: x\nagents: {}", "more"),
    ],
)
def test_a_bad_overlay_is_refused_as_a_whole(data: bytes, why: str) -> None:
    """An overlay that says anything else than allow, or says it wrongly, makes no policy."""
    with pytest.raises(PolicyError, match=why):
        load(POLICY, workspace="/", overlay=Overlay(data, "overlay.yaml"))


def test_a_policy_never_has_the_section_itself() -> None:
    """`approved` is an error in a policy, and an overlay for an aegize policy is one."""
    with pytest.raises(PolicyError, match="approved"):
        load(b"version: 1\nagents: {bot: {approved: [{tool: x}]}}", workspace="/")
    with pytest.raises(PolicyError, match="aegize"):
        load(b"agents: {bot: {allow: [{tool: x}]}}", workspace="/", overlay=overlay({"tool": "x"}))
