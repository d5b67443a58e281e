"""The rules of `match:` about labels: asks the engines of containers, and settles what the kernel has stopped until
then.

A program that begins in a container of which nothing is known is stopped, and may do nothing (bpf/match.bpf.c). Engines
are asked in threads, so that whatever they do nobody else waits. If none has said the labels in SECONDS, the program is
killed: it can't be told apart; if those that are there answer that they know no such container, after SOON; if one that
is there is only slow, as on a busy host, after PATIENCE, because the program loses nothing but time. What runs already
is left meanwhile, and asked about again; what it starts is not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psutil

from agentd.actions import signals
from agentd.engine.core import Engine
from agentd.engine.records import note
from agentd.errors import AgentdError
from agentd.kernel import abi, features
from agentd.policy.recognise import NAME, container
from agentd.workloads.containers import Answer, labels_of
from agentd.workloads.match import recognise
from agentd.workloads.processes import cgroup_path, start_ticks, ticks

SECONDS: Final = 5.0
SOON: Final = 1.0
PATIENCE: Final = 30.0
PAUSE: Final = 0.2  # between two rounds of questions
AGAIN: Final = 30.0  # before something that runs is asked about again in vain
KEPT: Final = 4096  # containers whose labels are remembered: they never change
THREADS: Final = 4
NONE: Final[Mapping[str, str]] = {}


class Labels:
    """Of one service. engines: see containers.py; marked: told when something that runs can be told apart now."""

    def __init__(self, engine: Engine, engines: tuple[Path, ...], marked: Callable[[], Any]) -> None:
        self._engine = engine
        self._engines = engines
        self._marked = marked
        self._known: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Answer]] = {}
        self._vain: OrderedDict[str, float] = OrderedDict()  # when nobody said them
        self._settling: dict[int, asyncio.Task[None]] = {}  # by pid
        self._threads = ThreadPoolExecutor(THREADS, "labels")
        self._root = features.cgroup2_root()

    # -- what the kernel has stopped

    def asked(self, pid: int, start: int, workload: int) -> None:
        """A program waits. start: in clock ticks since boot."""
        if pid not in self._settling:
            task = self._settling[pid] = asyncio.get_running_loop().create_task(self._settle(pid, start, workload))
            task.add_done_callback(lambda _: self._settling.pop(pid, None))

    def find_waiting(self) -> None:
        """Those of which no event has told: by an agentd before this one, or lost; and what came of them meanwhile."""
        slots = {slot for slot, name in self._engine.policies.names().items() if name == NAME}
        for line in self._engine.marks.list():
            if line.agent in slots and line.pid == line.tid:
                self.asked(line.pid, ticks(line.start_time), line.workload)

    async def _settle(self, pid: int, start: int, workload: int) -> None:
        cgroup = cgroup_path(pid)
        if cgroup is None:
            return
        answer = Answer(NONE)
        if self._engine.recognisers.labelled and (id_ := self._host_made(cgroup)):
            answer = await self._ask(id_)
        if answer.labels is None:
            self._end(pid, start, f"the labels of container {id_} are not known: {'; '.join(answer.why)}")
            return
        labels = answer.labels
        try:
            self._engine.recognisers.learn(self._cgroup_id(cgroup), labels)
            rule = recognise(self._engine.recognisers.rules, pid, lambda _: labels)
            if start_ticks(pid) != start:
                return
            if rule is None:
                self._engine.marks.remove(workload)
            elif rule.refuse:
                self._end(pid, start, rule.why)
                return
            else:
                self._engine.tagging.tree(pid, rule.agent, rule.why)
        except AgentdError as error:
            self._end(pid, start, str(error))
            return
        self._engine.workloads.workloads.pop(workload, None)
        signals.send(pid, start, signal.SIGCONT, start_ticks)
        self._engine.commit()

    def _end(self, pid: int, start: int, why: str) -> None:
        if signals.send(pid, start, signal.SIGKILL, start_ticks):
            self._engine.audit.append([note("denied", f"process {pid} may not run and was killed: {why}")])
            self._engine.commit()

    # -- what runs

    def of(self, cgroup: bytes | None) -> Mapping[str, str] | None:
        """What is known of the container whose processes are in a cgroup; None: nothing yet, and it is being asked."""
        if cgroup is None or (id_ := self._host_made(cgroup)) is None:
            return NONE
        if (
            id_ not in self._known
            and id_ not in self._asking
            and time.monotonic() - self._vain.get(id_, -AGAIN) >= AGAIN
        ):
            self._begin(id_).add_done_callback(lambda task: self._found(id_, task))
        return self._known.get(id_)

    async def prime(self) -> None:
        """Asks about every container there is, so that what runs can be told apart at a start."""
        if not self._engine.recognisers.labelled:
            return
        for pid in psutil.pids():
            self.of(cgroup_path(pid))
        if self._asking:  # those that take longer are told apart when they are known
            await asyncio.wait(self._asking.values(), timeout=SECONDS)

    def _found(self, id_: str, task: asyncio.Task[Answer]) -> None:
        if task.cancelled():
            return
        if task.result().labels is not None:
            self._marked()
            return
        if id_ not in self._vain:
            why = "; ".join(task.result().why)
            text = f"match label: container {id_} runs, and nobody says its labels: {why}"
            self._engine.audit.append([note("enforcement_failed", text)])
        _keep(self._vain, id_, time.monotonic())

    # -- asking

    def _host_made(self, cgroup: bytes) -> str | None:
        """The id of the container, if it was made by an engine of the host: who owns the cgroup above it is root. What
        a user makes in cgroups of its own is called as that user likes.
        """
        if (found := container(cgroup)) is None:
            return None
        try:
            return found[0] if os.stat(self._root / os.path.dirname(found[1])[1:]).st_uid == 0 else None
        except OSError:
            return found[0]  # gone, with everything in it

    def _cgroup_id(self, cgroup: bytes) -> int:
        try:
            return os.stat(self._root / os.fsdecode(cgroup[1:])).st_ino
        except OSError:
            return 0  # no cgroup's

    async def _ask(self, id_: str) -> Answer:
        if (known := self._known.get(id_)) is not None:
            return Answer(known)
        return await asyncio.shield(self._asking.get(id_) or self._begin(id_))

    def _begin(self, id_: str) -> asyncio.Task[Answer]:
        task = self._asking[id_] = asyncio.get_running_loop().create_task(self._until_known(id_))
        task.add_done_callback(lambda _: self._asking.pop(id_, None))
        return task

    async def _until_known(self, id_: str) -> Answer:
        begun = time.monotonic()
        answer = Answer(None, (f"no answer in {PATIENCE:.0f} s",), definite=False)
        while (left := begun + PATIENCE - time.monotonic()) > 0:
            asked = asyncio.get_running_loop().run_in_executor(
                self._threads, labels_of, id_, self._engines, lambda pid: not self._engine.marks.carries(pid)
            )
            try:
                answer = await asyncio.wait_for(asked, left)
            except TimeoutError:
                break
            if answer.labels is not None:
                self._vain.pop(id_, None)
                _keep(self._known, id_, answer.labels)
                break
            await asyncio.sleep(PAUSE)
            if time.monotonic() - begun >= worth_asking(answer):
                break
        return answer

    async def stop(self, *, release: bool) -> None:
        """Asks no more. What is stopped stays so, for the next agentd; release: there is none, and it is killed."""
        tasks = [*self._settling.values(), *self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        for line in self._engine.marks.list() if release else ():
            if line.flags & abi.TAG_ASKED:
                self._end(
                    line.pid, ticks(line.start_time), "enforcement ends before the labels of its container are known"
                )


def worth_asking(answer: Answer) -> float:
    """For how many seconds a container is asked about whose labels nobody has said yet."""
    if answer.definite:
        return SOON
    return PATIENCE if answer.slow else SECONDS


def _keep(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    while len(kept) > KEPT:
        kept.popitem(last=False)
