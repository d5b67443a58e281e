"""The methods of the socket that are about approvals; server.py has the rest, CONTRIBUTING.md the protocol."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agentd.approvals.standing import Scope
from agentd.daemon.loop import SLICE_SECONDS
from agentd.daemon.peers import Peer
from agentd.daemon.terminals import TerminalGuard
from agentd.engine.pending import brief
from agentd.engine.questions import boot_now
from agentd.errors import AgentdError

if TYPE_CHECKING:
    from agentd.daemon.server import Params, Server

PAGE: Final = 1000  # approvals of one list
WAIT_SECONDS: Final = 60
POLL_SECONDS: Final = 0.05


def listing(server: Server, peer: Peer, params: Params) -> Any:
    """approvals.list: what is held, oldest first, at most `limit` behind approval `after`."""
    server.engine.pump(SLICE_SECONDS)
    now = boot_now()
    limit = params.number("limit", PAGE)
    after = params.text("after", "")
    if after and not after.isdigit():
        raise AgentdError("usage", "parameter after", "expected the id of an approval")
    agent = params.text("agent", "")
    found = sorted(server.engine.questions.book, key=lambda pending: int(pending.id))
    if after:
        found = [pending for pending in found if int(pending.id) > int(after)]
    if agent:
        found = [pending for pending in found if pending.agent == agent]
    return [brief(pending, now) for pending in found[: min(limit, PAGE)]]


def summary(server: Server, peer: Peer, params: Params) -> Any:
    """approvals.summary: how many wait, floods, standing answers."""
    server.engine.pump(SLICE_SECONDS)
    return server.engine.questions.summary()


async def wait(server: Server, peer: Peer, params: Params) -> Any:
    """approvals.wait: the summary, as soon as its version is no longer `version`, or after `seconds`."""
    version = params.number("version", 0, least=0)
    until = asyncio.get_running_loop().time() + min(params.number("seconds", 30), WAIT_SECONDS)
    while server.engine.questions.book.version == version and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(POLL_SECONDS)
    return server.engine.questions.summary()


def show(server: Server, peer: Peer, params: Params) -> Any:
    """approvals.show: one approval, with the rule that held it and what was answered before."""
    server.engine.pump(SLICE_SECONDS)
    engine = server.engine
    found = engine.questions.show(params.text("id"))
    agent = engine.policies.agent(found["agent"])
    rule = next((rule for rule in agent.rules if rule.id == found["rule"]), None) if agent else None
    found["rule_text"] = None if rule is None else rule.text()
    found["rule_at"] = None if rule is None else rule.where
    workload = engine.workloads.workloads.get(found["workload"])
    found["workload_started"] = workload.started if workload else None
    return found


def answer(allow: bool) -> Callable[[Server, Peer, Params], Any]:
    """approvals.approve and approvals.deny."""

    def method(server: Server, peer: Peer, params: Params) -> Any:
        refuse_shared_terminal(server, peer)
        server.engine.pump(SLICE_SECONDS)
        words = {scope.value: scope for scope in Scope}
        scope = words.get(params.text("scope", Scope.ONCE.value))
        if scope is None:
            raise AgentdError("usage", "parameter scope", f"expected one of {', '.join(words)}")
        return server.engine.questions.answer(
            params.text("id"),
            allow,
            peer.approver(),
            params.text("reason", "")[:1000],
            scope=scope,
            seconds=params.number("seconds", 0, least=0),
            upto=params.number("upto", 0, least=0, most=1 << 63) or None,
        )

    return method


def standing(server: Server, peer: Peer, params: Params) -> Any:
    """approvals.standing: the answers that stand."""
    server.engine.pump(SLICE_SECONDS)
    return server.engine.questions.ledger.listing(boot_now())


def revoke(server: Server, peer: Peer, params: Params) -> Any:
    """approvals.revoke: ends a standing answer."""
    refuse_shared_terminal(server, peer)
    server.engine.pump(SLICE_SECONDS)
    return server.engine.questions.revoke(params.text("id"), peer.approver(), params.text("reason", "")[:1000])


def guard(server: Server) -> TerminalGuard:
    """Looks at the terminals of the workloads of this server's engine."""
    own = os.getpid()
    return TerminalGuard(lambda: {line.pid for line in server.engine.marks.list()} - {own})


def refuse_shared_terminal(server: Server, peer: Peer) -> None:
    """Raises AgentdError `not-permitted` where a workload holds the terminal of whoever asks."""
    if server.terminals.shared(peer.pid):
        raise AgentdError(
            "not-permitted", "agentd", "a workload holds this terminal: who types there can't be known",
            "answer from another terminal",
        )  # fmt: skip
