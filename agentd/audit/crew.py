"""Processes that check parts of a log (chunks.py), and the parts in their order.

A worker ends when whoever started it does, however that ends: its pipe breaks then. It never outlives a `with`.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final

from agentd.audit import chunks, keys
from agentd.audit.chunks import Seen, Task

AHEAD: Final = 2  # parts that each worker has: one to work at and one to go on with


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


class Crew:
    """`jobs` workers; with less than two the parts are checked in this process."""

    def __init__(self, jobs: int) -> None:
        self._ends: list[Connection] = []
        self._workers: list[multiprocessing.process.BaseProcess] = []
        # fork: nothing has to be imported again, and a checkout or a zip works alike
        context = multiprocessing.get_context("fork")
        for _ in range(jobs if jobs > 1 else 0):
            ours, theirs = context.Pipe()
            self._ends.append(ours)
            worker = context.Process(target=_work, args=(theirs, list(self._ends)), daemon=True)
            worker.start()
            theirs.close()
            self._workers.append(worker)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for end in self._ends:
            end.close()
        for worker in self._workers:
            worker.terminate()
            worker.join()
            worker.close()

    def parts(self, tasks: Iterator[Callable[[], Task]]) -> Generator[tuple[Task, Seen | None], None, None]:
        """Each task, in order, and what became of it. A task is made as late as can be, when more is known."""
        if not self._ends:
            for make in tasks:
                task = make()
                yield task, attempt(task)
            return
        sent: deque[tuple[Connection, Task]] = deque()
        free = deque(end for _ in range(AHEAD) for end in self._ends)
        try:
            while True:
                while free and (to_make := next(tasks, None)) is not None:
                    task, end = to_make(), free.popleft()
                    with contextlib.suppress(OSError):
                        end.send(task)
                    sent.append((end, task))
                if not sent:
                    return
                end, task = sent.popleft()
                yield task, _answer(end)
                free.append(end)
        finally:
            for end, _ in sent:  # an answer that nobody waits for would be taken for the next one's
                _answer(end)


def attempt(task: Task) -> Seen | None:
    """What `look` says, or None where it can't read."""
    try:
        return chunks.look(task, _key(task.pem))
    except OSError:
        return None


@functools.lru_cache(maxsize=4)
def _key(pem: str) -> keys.PublicKey | None:
    return keys.parse_public(pem) if pem else None


def _answer(end: Connection) -> Seen | None:
    """None too if the worker is gone: its parts are read here then, one record after the other."""
    try:
        seen = end.recv()
    except (EOFError, OSError):
        return None
    return seen if isinstance(seen, Seen) else None


def _work(tasks: Connection, others: list[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever waits for this
    for other in others:
        other.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks.send(attempt(tasks.recv()))
