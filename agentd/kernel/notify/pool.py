"""The threads that wait for the calls of one filter, and answer them.

One waits at a time; when it got a call and nobody else is free, another thread is made, up to MAX_THREADS: a call may
take as long as its file system, which may be served by the very workload. A call that is held keeps no thread: it is
looked at anew, from its arguments on, when there is an answer.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from agentd.kernel.notify import calls
from agentd.kernel.notify.caller import Caller, Own, Where
from agentd.kernel.notify.device import Call, Listener
from agentd.kernel.notify.identity import Actor
from agentd.kernel.notify.request import ARCH_I386, Descriptor, Gone, GoOn, Held, Question, Refused, Request

MAX_THREADS: Final = 64
MAX_DRAINS: Final = 8
JOIN_SECONDS: Final = 2.0
_NO_ANSWER: Final = -1


class Pool:
    """Serves one listener, which it owns. ask: of any of its threads; raises Refused or Held, or returns: then the call
    is carried out. failed: told of what should not have happened; the caller gets EPERM. over: called when a thread
    ends, which is when no process has the filter any more.
    """

    def __init__(
        self,
        listener: Listener,
        ask: Callable[[Question], None],
        failed: Callable[[str], None],
        over: Callable[[], None],
    ) -> None:
        self.listener = listener
        self.calls = 0  # that arrived
        self.where = Where()
        self._ask = ask
        self._failed = failed
        self._over = over
        self._lock = threading.Lock()
        self._free = 0
        self._threads: set[threading.Thread] = set()
        self._held: deque[Call] = deque()  # to be looked at anew
        self._drains = 0  # threads that do
        self._spawn()
        if not self._threads:
            raise OSError(errno.EAGAIN, "its thread could not be made")

    @property
    def ended(self) -> bool:
        """Does no process have the filter any more?"""
        return self.listener.ended

    def again(self, call: Call) -> None:
        """A call that was held is looked at anew. A yes may be for thousands at once: they take turns."""
        with self._lock:
            self._held.append(call)
            if self._drains >= MAX_DRAINS:
                return
            self._drains += 1
            thread = threading.Thread(target=self._drain, name="seccomp-held", daemon=True)
            self._threads.add(thread)
        thread.start()

    def refuse(self, call: Call) -> None:
        """A call that was held fails with EPERM."""
        self.listener.answer(call.id, error=errno.EPERM)

    def close(self) -> None:
        """Ends the threads and lets go: whoever waits still gets EPERM."""
        self.listener.stop()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(JOIN_SECONDS)
        if not any(thread.is_alive() for thread in threads):
            self.listener.close()

    def _spawn(self) -> None:
        """Returns when the new thread has a root and a working directory of its own: until then it shares those of this
        thread, which could not look into another mount namespace meanwhile, or would take it along.
        """
        apart = threading.Event()
        thread = threading.Thread(target=self._serve, args=(apart,), name="seccomp", daemon=True)
        with self._lock:
            self._threads.add(thread)
            self._free += 1
        thread.start()
        apart.wait()

    def _serve(self, apart: threading.Event) -> None:
        """A thread that fails leaves another in its place, or calls would wait for ever."""
        try:
            with _Worker(self) as worker:
                apart.set()
                while (call := self.listener.receive()) is not None:
                    with self._lock:
                        self.calls += 1
                        self._free -= 1
                        more = not self._free and len(self._threads) < MAX_THREADS
                    if more:
                        self._spawn()
                    worker.handle(call)
                    with self._lock:
                        self._free += 1
        except Exception as error:  # noqa: BLE001  # nobody else would tell
            self._failed(f"a thread ended: {type(error).__name__}: {error}")
            if not apart.is_set():  # it never began
                with self._lock:
                    self._free -= 1
            elif not self.ended:
                self._spawn()
        finally:
            self._leave()
            apart.set()

    def _drain(self) -> None:
        try:
            with _Worker(self) as worker:
                while (call := self._next_held()) is not None:
                    worker.handle(call)
        except Exception as error:  # noqa: BLE001  # nobody else would tell
            self._failed(f"a thread ended: {type(error).__name__}: {error}")
            while (call := self._next_held()) is not None:
                self.refuse(call)
        finally:
            self._leave()

    def _next_held(self) -> Call | None:
        with self._lock:
            if self._held:
                return self._held.popleft()
            self._drains -= 1
            return None

    def _leave(self) -> None:
        with self._lock:
            self._threads.discard(threading.current_thread())
        if self.ended:
            self._over()


class _Worker:
    """What one thread needs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._listener = pool.listener

    def __enter__(self) -> _Worker:
        self._own = Own()
        self._actor = Actor()
        return self

    def __exit__(self, *_: object) -> None:
        self._own.close()

    def handle(self, call: Call) -> None:
        """Answers a call, unless it is held."""
        error: int | None = errno.EPERM  # whatever goes wrong: not allowed
        try:
            error = self._carry_out(call)
        except Exception as wrong:  # noqa: BLE001  # one call that can't be dealt with must not end the others
            self._pool._failed(f"system call {call.number}: {type(wrong).__name__}: {wrong}")
        if error is not None and error != _NO_ANSWER:
            self._listener.answer(call.id, error=error)

    def _carry_out(self, call: Call) -> int | None:
        """The errno, None if it was answered, _NO_ANSWER if it is held or gone."""
        compat = call.arch == ARCH_I386
        handle = calls.narrow(call.number, call.args) if compat else calls.handler(call.number)
        if handle is None:
            return errno.EPERM
        try:
            caller = Caller(call.tid, self._own, self._pool.where)
        except (OSError, KeyError, ValueError) as error:
            if not self._listener.valid(call.id):
                return _NO_ANSWER
            self._pool._failed(f"thread {call.tid}: {type(error).__name__}: {error}")
            return errno.EPERM
        try:
            waits = lambda: self._listener.valid(call.id)  # noqa: E731
            request = Request(call, caller, self._actor, self._own.root, self._pool._ask, waits)
            result = handle(request)
            if isinstance(result, Descriptor):
                try:
                    self._listener.give(call.id, result.fd, result.flags)
                finally:
                    os.close(result.fd)
            elif isinstance(result, GoOn):
                if calls.moves(call.number, compat=compat):
                    self._pool.where.moved = True
                self._listener.go_on(call.id)
            else:
                self._listener.answer(call.id, result)
        except Refused:
            return errno.EPERM
        except (Held, Gone):
            return _NO_ANSWER
        except OSError as error:
            return error.errno or errno.EPERM
        finally:
            caller.close()
        return None
