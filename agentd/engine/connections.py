"""Connections that were there before the policy: of what is marked while it runs, and of all when the policy changes.

A connection is judged as its `connect` would be now; one that was accepted, as the `listen` on its own address. What
isn't allowed is destroyed, and on record; what has to be approved too, because nobody can be asked about what has
happened. An address keeps the names that its agent has learned for it, fresh or not: it had them when it was connected.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

from agentd.audit.canonical import Json
from agentd.audit.record import Record
from agentd.engine.records import note
from agentd.errors import AgentdError
from agentd.kernel.hosts import HostNames, Resolver
from agentd.kernel.namespaces import enter_network
from agentd.kernel.tasks import TaskMarks
from agentd.model import Decision, Endpoint, Mode, Op
from agentd.policy.evaluate import decide
from agentd.policy.hosts import RESOLVERS
from agentd.policy.resolved import ResolvedAgent
from agentd.workloads.sockets import Connection, Cut, cut

TOLD: Final = 100  # records of one look; the rest is one line


class Connections:
    """Of the workloads of one engine. agents: the kernel's numbers; agent: of the policy in force."""

    def __init__(
        self,
        marks: TaskMarks,
        names: HostNames,
        agents: Callable[[], dict[int, str]],
        agent: Callable[[str], ResolvedAgent | None],
        record: Callable[[Record], None],
    ) -> None:
        self._marks = marks
        self._names = names
        self._agents = agents
        self._agent = agent
        self._record = record

    def judge(self, why: str, workload: int | None = None) -> None:
        """Destroys what is not allowed. workload: of this one only."""
        agents = self._agents()
        pids: dict[int, set[int]] = {}
        for line in self._marks.list():
            if workload in (None, line.workload):
                pids.setdefault(line.agent, set()).add(line.pid)
        for index, found in pids.items():
            if resolved := self._agent(agents.get(index, "")):
                self._judge(index, resolved, found, why)

    def _judge(self, index: int, agent: ResolvedAgent, pids: Iterable[int], why: str) -> None:
        if agent.mode is Mode.MONITOR:
            return
        known: dict[bytes, list[str]] | None = None

        def unwanted(connection: Connection) -> bool:
            nonlocal known
            if connection.accepted:
                return decide(agent, Op.LISTEN, connection.local).decision is not Decision.ALLOW
            if known is None:
                known = {}
                for one in self._names.known():
                    if one.agent == index:
                        known.setdefault(one.address, []).append(one.name)
            remote = connection.remote
            names = known.get(remote.address, [])
            if Resolver(remote.address, remote.port) in self._names.believed():
                names = [*names, RESOLVERS]
            endpoint = dataclasses.replace(remote, names=tuple(names))
            return decide(agent, Op.CONNECT, endpoint).decision is not Decision.ALLOW

        try:
            self._tell(agent.name, cut([*pids], unwanted, enter_network), why)
        except AgentdError as error:
            self._record(note("enforcement_failed", f"{why}: {error}", agent=agent.name))

    def _tell(self, agent: str, cuts: list[Cut], why: str) -> None:
        for one in cuts[:TOLD]:
            held = one.connection
            what = f"{_text(held.local)} with {_text(held.remote)}"
            said = f"could not be destroyed: {one.error}" if one.error else "destroyed"
            metadata: dict[str, Json] = {
                "pids": [*held.pids], "local": _text(held.local), "remote": _text(held.remote), "error": one.error,
            }  # fmt: skip
            self._record(note("disconnected", f"connection of {what} {said}: {why}", agent=agent, metadata=metadata))
        if len(cuts) > TOLD:
            text = f"{len(cuts) - TOLD} more connections destroyed: {why}"
            self._record(note("disconnected", text, agent=agent, metadata={"count": len(cuts) - TOLD}))


def _text(endpoint: Endpoint) -> str:
    address = ipaddress.ip_address(endpoint.address)
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"{shown}:{endpoint.port}/{endpoint.protocol}"
