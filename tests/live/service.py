"""A service of its own for each test: its pins, socket, log and port are nobody else's.

`Service` runs `agentd daemon` as a process; everything is asked through the command line and the socket, as a user
would.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import yaml

from agentd.daemon.client import Client
from agentd.kernel import loader

PATIENCE: Final = 60.0  # seconds until what doesn't happen is a failure; not a measure of anything
PYTHON: Final = "/usr/bin/python3"
STALE: Final = "left by an agentd that is gone"  # what a killed test left on this machine is told to others
_numbers = itertools.count()


def until(done: Callable[[], Any], what: str) -> Any:
    """Waits for a true value and returns it."""
    deadline = time.monotonic() + PATIENCE
    while not (value := done()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)
    return value


def agentd(*words: str | os.PathLike[str], **how: Any) -> subprocess.CompletedProcess[str]:
    """One call of the command line."""
    command = [sys.executable, "-m", "agentd", *map(os.fspath, words)]
    return subprocess.run(command, text=True, check=False, timeout=PATIENCE, **{"capture_output": True, **how})


def state(pid: int) -> str:
    """The state letter of proc_pid_stat(5); `X` for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return "X"


def free_port() -> int:
    """A TCP port of the loopback address that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bot(**keys: Any) -> dict[str, Any]:
    """An agent that may run and read anything ordinary, and write nowhere but /dev."""
    made: dict[str, Any] = {
        "allow": [
            {"tool": "shell", "operations": ["execute"]},
            {"tool": "file_reader", "operations": ["read"]},
            {"tool": "file_writer", "paths": ["/dev/**"]},
        ],
        "deny": [{"tool": "shell", "operations": ["rm"]}, {"tool": "secrets"}],
    }
    return made | keys


class Service:
    """One `agentd daemon`. Use as a context manager; leaving it ends its workloads, its pins and its files."""

    def __init__(self, agents: dict[str, Any], *, metrics: bool = False, **config: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentd-"))
        self.pins = Path(f"/sys/fs/bpf/agentd-test-{os.getpid()}-{next(_numbers)}")
        self.policy = self.folder / "policy.yaml"
        self.audit = self.folder / "audit"
        self.socket = self.folder / "agentd.sock"
        self.port = free_port() if metrics else 0
        self.config = self.folder / "agentd.yaml"
        self.settings = {
            "policy": str(self.policy), "audit_dir": str(self.audit), "socket": str(self.socket),
            "metrics_port": self.port, "bpffs_dir": str(self.pins), "workspace": str(self.folder),
            "probe_seconds": 0,  # the canary's marks would be among those that tests count
            **config,
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.write_policy(agents)
        self.write_config()

    def write_policy(self, agents: dict[str, Any], tools: dict[str, Any] | None = None) -> None:
        """Writes the policy file; the daemon sees it at its start or reload."""
        document: dict[str, Any] = {"version": 1, **({"tools": tools} if tools else {}), "agents": agents}
        self.policy.write_text(yaml.safe_dump(document), encoding="utf-8")

    def write_config(self, **changes: Any) -> None:
        """Writes the configuration file with some keys changed."""
        self.settings |= changes
        self.config.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    # -- the process

    def start(self) -> Service:
        """Starts the daemon and waits until it says that it is ready."""
        ready = self.folder / "notify"
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(ready))
            listener.settimeout(0.05)
            environment = {**os.environ, "NOTIFY_SOCKET": str(ready)}
            with open(self.folder / "stderr", "ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "agentd", "daemon", "--config", self.config], stderr=log, env=environment
                )
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in listener.recv(4096):
                        return self
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the daemon did not become ready: {self.said}")

    @property
    def said(self) -> str:
        """Everything the daemons wrote to standard error."""
        lines = (self.folder / "stderr").read_text(encoding="utf-8").splitlines(True)
        return "".join(line for line in lines if STALE not in line)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends the daemon by a signal; its exit status as subprocess gives it."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self.process = None
        return status

    def crash(self) -> None:
        """kill -9."""
        assert self.end(signal.SIGKILL) == -signal.SIGKILL

    def reload(self) -> subprocess.CompletedProcess[str]:
        """`agentd reload`."""
        return self.cli("reload")

    # -- asking

    def cli(self, *words: str | os.PathLike[str], **how: Any) -> subprocess.CompletedProcess[str]:
        """A verb of the command line that asks this service."""
        verb = 2 if words[0] == "approvals" else 1
        return agentd(*words[:verb], "--socket", self.socket, *words[verb:], **how)

    def call(self, method: str, **params: Any) -> Any:
        """A method of the socket. Raises AgentdError as the service says."""
        with Client(self.socket) as client:
            return client.call(method, **params)

    def pending(self) -> list[dict[str, Any]]:
        """What waits for an answer."""
        found: list[dict[str, Any]] = self.call("approvals.list")
        return found

    def held(self, count: int = 1) -> list[dict[str, Any]]:
        """Waits until so many approvals are pending."""
        found: list[dict[str, Any]] = until(lambda: p if len(p := self.pending()) >= count else None, "questions")
        return found

    def records(self, *events: str, after: int = 0) -> list[dict[str, Any]]:
        """The audit log's records, of these events or all."""
        whole = (self.audit / "audit.jsonl").read_bytes().split(b"\n")[:-1]  # the last line may be half written
        made = [json.loads(line) for line in whole]
        return [r for r in made if r["seq"] > after and (not events or r["event"] in events)]

    def verify(self, *, strict: bool = True) -> None:
        """The log is whole. strict: every record is parsed too, which takes six times as long."""
        done = agentd("audit", "verify", *(["--strict"] if strict else []), self.audit)
        assert done.returncode == 0, done

    # -- workloads

    def run(self, *command: str | os.PathLike[str], agent: str = "bot", **how: Any) -> subprocess.CompletedProcess[str]:
        """`agentd run` through this service, to its end."""
        return self.cli("run", "--agent", agent, "--", *command, **how)

    def spawn(self, *command: str | os.PathLike[str], agent: str = "bot", **how: Any) -> subprocess.Popen[bytes]:
        """`agentd run` through this service, in the background."""
        line = [sys.executable, "-m", "agentd", "run", "--socket", self.socket, "--agent", agent, "--", *command]
        return subprocess.Popen(line, **how)

    def tag(self, pid: int, agent: str = "bot") -> None:
        """`agentd tag --pid`."""
        self.call("tag", agent=agent, pid=pid)

    def tasks(self) -> list[Any]:
        """The marked threads, asked from the pinned iterator: it needs no daemon."""
        return loader.pinned_tasks(self.pins) if (self.pins / "tasks").exists() else []

    def pids(self) -> set[int]:
        """The processes of all workloads."""
        return {line.pid for line in self.tasks()}

    def end_workloads(self) -> None:
        """Ends every marked process."""

        def gone() -> bool:
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        until(gone, "the end of the workloads")

    def __enter__(self) -> Service:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and (self.folder / "stderr").exists():
            print(self.said, file=sys.stderr)
        self.close()

    def close(self) -> None:
        """Ends everything and takes it away."""
        self.end_workloads()
        if self.process is not None:
            self.end(signal.SIGKILL if self.process.poll() is None else signal.SIGTERM)
        loader.remove_pins(self.pins)
        shutil.rmtree(self.folder)


class Sleeper:
    """An untagged process of ours, which does as it is told: one line in, one line out.

    Words: `open PATH`, `connect PORT`, `run WORD...`, `unlink PATH`, `fork`, `thread`. It answers `ok` or `errno N`.
    """

    SOURCE: Final = r"""
import os, socket, subprocess, sys, threading
def do(words):
    verb, rest = words[0], words[1:]
    if verb == "open":
        os.close(os.open(rest[0], os.O_RDONLY))
    elif verb == "unlink":
        os.unlink(rest[0])
    elif verb == "connect":
        with socket.socket() as s:
            s.connect(("127.0.0.1", int(rest[0])))
    elif verb == "run":
        return f"ok {subprocess.run(rest, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode}"
    return "ok"
def serve():
    for line in iter(sys.stdin.readline, ""):
        try:
            print(do(line.split()), flush=True)
        except OSError as error:
            print("errno", error.errno, flush=True)
print("ready", flush=True)
if "thread" in sys.argv:
    worker = threading.Thread(target=serve); worker.start(); worker.join()
else:
    serve()
"""

    def __init__(self, *options: str, **how: Any) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-I", "-S", "-c", self.SOURCE, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **how
        )
        assert self.answer() == "ready"

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def send(self, *words: str | os.PathLike[str]) -> None:
        """Tells it what to do, without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(os.fspath, words)).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Its next line; empty if it died."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def do(self, *words: str | os.PathLike[str]) -> str:
        """Tells it what to do and waits; `killed` if that was its end."""
        self.send(*words)
        if line := self.answer():
            return line
        return "killed" if self.process.wait(PATIENCE) == -signal.SIGKILL else f"exit {self.process.returncode}"

    def __enter__(self) -> Sleeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A TCP port that accepts connections (into its backlog)."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield server.getsockname()[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """What a command printed when it failed as it should: one line."""

    text: str

    @classmethod
    def of(cls, done: subprocess.CompletedProcess[str], code: int) -> Line:
        """The one line on standard error of a command that ended with `code`."""
        lines = [line for line in done.stderr.splitlines() if STALE not in line]
        assert done.returncode == code and len(lines) == 1 and lines[0].startswith("agentd: "), done
        return cls(lines[0])


def names(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Their pids."""
    return [process.pid for process in processes]
