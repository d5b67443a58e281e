"""What must not happen when agentd dies, reloads, or can't write: an operation that is denied goes through."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentd.audit import many
from tests.live.service import PYTHON, Service, Sleeper, agentd, bot, listening, state, until

pytestmark = pytest.mark.root

# Attempts four denied operations for ever, each in a child where the answer may be SIGKILL, and says what got through.
HAMMER = r"""
import os, signal, socket, sys, time
port, key, victim, program, log = sys.argv[1:]
out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def connect():
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", int(port))) == 0
def child(attempt):
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
attempts = {
    "connect": connect,
    "exec": lambda: child(lambda: os.execv(program, [program])),
    "read": lambda: child(lambda: os.read(os.open(key, os.O_RDONLY), 1)),
    "unlink": lambda: child(lambda: os.unlink(victim)),
}
os.write(1, b"ready\n")
while True:
    for name, attempt in attempts.items():
        os.write(out, b"%s %s\n" % (name.encode(), b"ALLOWED" if attempt() else b"denied"))
    time.sleep(0.002)  # the log is verified each round: not more than it takes
"""


class Hammer:
    """A workload that attempts what is denied, again and again."""

    def __init__(self, service: Service, port: int) -> None:
        self.key = service.folder / "secret-key"
        self.victim = service.folder / "victim"
        self.program = service.folder / "program"
        self.log = service.folder / "hammer"
        self.key.write_text("secret")
        self.victim.write_text("x")
        self.program.write_bytes(Path("/bin/true").read_bytes())
        self.program.chmod(0o755)
        self.process = subprocess.Popen(
            [PYTHON, "-I", "-S", "-c", HAMMER, str(port), self.key, self.victim, self.program, self.log],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def counts(self) -> Counter[str]:
        """Results so far, by what they were."""
        return Counter(self.log.read_text().splitlines())

    def more(self, rounds: int = 1) -> None:
        """Waits until each operation was attempted again."""
        before = self.counts()["unlink denied"] + self.counts()["unlink ALLOWED"]
        until(lambda: self.counts()["unlink denied"] + self.counts()["unlink ALLOWED"] >= before + rounds, "attempts")

    def __enter__(self) -> Hammer:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def hammered(service: Service, **keys: Any) -> dict[str, Any]:
    """An agent that is denied what the hammer attempts."""
    return bot(
        deny=[
            {"tool": "network"},
            {"tool": "file_reader", "paths": [str(service.folder / "secret-key")]},
            {"tool": "shell", "operations": ["execute"], "paths": [str(service.folder / "program")]},
            {"tool": "file", "operations": ["delete"]},
        ],
        allow=[
            {"tool": "shell", "operations": ["execute"]},
            {"tool": "file_reader"},
            {"tool": "file_writer", "paths": [str(service.folder / "hammer"), "/dev/**"]},
        ],
        **keys,
    )


@contextlib.contextmanager
def under_hammer(**config: Any) -> Iterator[tuple[Service, Hammer]]:
    """A service with a hammer that is tagged."""
    service = Service({}, **config)
    service.write_policy({"bot": hammered(service)})
    with listening() as port, service, Hammer(service, port) as hammer:
        until(lambda: hammer.log.exists(), "the first attempt")
        service.tag(hammer.process.pid)
        hammer.more(2)
        hammer.log.write_text("")
        # `unlink` is detected after its effect on a host without a better point: the file is gone, the process too.
        hammer.victim.write_text("x")
        yield service, hammer


def assert_nothing_allowed(hammer: Hammer) -> None:
    counts = hammer.counts()
    assert not [name for name in counts if name.endswith("ALLOWED")], counts
    for name in ("connect", "exec", "read", "unlink"):
        assert counts[f"{name} denied"], counts


def test_kill_9_of_the_daemon() -> None:
    """What is denied stays denied while the daemon is killed and comes back; counters and marks go on."""
    rounds = 10 if os.environ.get("CI") else 6
    with under_hammer() as (service, hammer):
        verdicts = 0
        for _ in range(rounds):
            service.crash()
            assert service.pids() >= {hammer.process.pid}
            hammer.more()
            service.start()
            status = service.call("status")
            assert status["verdicts"] > verdicts, "the counters began anew"
            verdicts = status["verdicts"]
            assert [w["agent"] for w in status["workloads"]] == ["bot"]
            hammer.more()
            service.verify(strict=False)
        assert_nothing_allowed(hammer)
        hammer.process.kill()
        hammer.process.wait()
        service.end()
        service.verify()
        assert not [r for r in service.records("denied") if r["agent_id"] != "bot"]
        unknown = [r for r in service.records("denied") if r["tool_name"] == "unknown"]
        assert not unknown, unknown[0]


def test_reload_under_load(request: pytest.FixtureRequest) -> None:
    """Reloads under a workload that attempts what is denied before and after: never allowed, not once."""
    rounds = 200 if request.config.getoption("--slow", default=False) else 20
    with under_hammer() as (service, hammer):
        for number in range(rounds):
            extra = {"tool": "file_reader", "paths": [f"/nowhere/{number}"]}
            agents = hammered(service)
            agents["deny"] = [*agents["deny"], extra] if number % 2 else [extra, *agents["deny"]]
            service.write_policy({"bot": agents})
            if number % 5:
                assert service.process is not None
                loaded = len(service.records("policy_loaded"))
                service.process.send_signal(signal.SIGHUP)
                until(lambda loaded=loaded: len(service.records("policy_loaded")) > loaded, "the reload")
            else:
                done = service.reload()
                assert done.returncode == 0 and "is in force" in done.stdout, done
        hammer.more()
        assert_nothing_allowed(hammer)
        service.verify()


def test_reload() -> None:
    """A tighter policy holds at once; a bad one changes nothing; an agent that is gone may nothing."""
    open_policy = bot(allow=[{"tool": "network"}, {"tool": "file_reader"}, {"tool": "shell"}], deny=[{"tool": "email"}])
    with Service({"bot": open_policy}, metrics=True) as service, Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        assert sleeper.do("connect", str(port)) == "ok"
        service.write_policy({"bot": bot(deny=[{"tool": "network"}])})
        assert service.reload().returncode == 0
        assert sleeper.do("connect", str(port)) == "errno 1"

        before = service.call("status")["policy"]["sha256"]
        service.policy.write_text("version: 1\nagents:\n  bot: {allow: [{tool: network, host: [x]}]}\n")
        refused = service.reload()
        assert refused.returncode == 1 and "policy.yaml:3:" in refused.stderr, refused
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "reload refused, the old policy stays" in service.said, "the message")
        assert len(service.records("policy_rejected")) == 2
        assert metric(service, "agentd_policy_reloads_total", result="rejected") == 2
        assert service.call("status")["policy"]["sha256"] == before
        assert sleeper.do("connect", str(port)) == "errno 1"
        assert sleeper.do("open", "/etc/hostname") == "ok"

        service.write_policy({"stranger": open_policy})
        assert service.reload().returncode == 0
        assert sleeper.do("connect", str(port)) == "errno 1"
        assert sleeper.do("open", "/etc/hostname") == "killed"
        assert service.run("true", agent="bot").returncode == 125


def metric(service: Service, name: str, **labels: str) -> float:
    """One sample of the endpoint."""
    return next(value for key, value in scrape(service).items() if key == (name, tuple(sorted(labels.items()))))


def scrape(service: Service) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, parsed by Prometheus's own parser."""
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_equal_the_log() -> None:
    """All series are there from the start; after a load the decision counters are what the log says, exactly."""
    with Service({"bot": bot()}, metrics=True) as service, listening() as port:
        start = scrape(service)
        assert {name for name, _ in start} >= {
            "agentd_decisions_total", "agentd_verdict_seconds_bucket", "agentd_approvals_pending",
            "agentd_approval_wait_seconds_bucket", "agentd_events_lost_total", "agentd_workload_processes",
            "agentd_policy_info", "agentd_policy_reloads_total", "agentd_audit_bytes_total",
            "agentd_audit_chain_head", "agentd_bpf_program_seconds_total", "agentd_map_entries",
            "agentd_map_capacity", "agentd_build_info",
        }  # fmt: skip
        code = (
            "import os, socket, sys\nfor i in range(50):\n"
            "    socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1])))\n"
            "    os.close(os.open('/etc/hostname', os.O_RDONLY))\n"
            "    if os.fork() == 0:\n        os.execv('/bin/rm', ['rm', f'/nowhere/{i}'])\n    os.wait()\n"
        )
        assert service.run(PYTHON, "-I", "-S", "-c", code, str(port)).returncode == 0
        until(lambda: service.records("workload_ended"), "its end")
        time.sleep(1.5)
        after = scrape(service)
        service.end()
        assert set(after) == set(start) | {key for key in after if key[0] == "agentd_policy_info"}
        logged: Counter[tuple[tuple[str, str], ...]] = Counter()
        for record in service.records("allowed", "denied"):
            labels = {
                "agent": record["agent_id"], "tool": record["tool_name"], "operation": record["operation"],
                "decision": record["decision"], "action": record["action"],
            }  # fmt: skip
            logged[tuple(sorted(labels.items()))] += record.get("count", 1)
        denied = {labels: n for labels, n in logged.items() if ("decision", "deny") in labels}
        counted = {
            labels: int(value)
            for (name, labels), value in after.items()
            if name == "agentd_decisions_total" and value and ("decision", "deny") in labels
        }
        assert counted == denied
        assert sum(n for labels, n in denied.items() if ("tool", "network") in labels) == 50
        assert sum(n for labels, n in denied.items() if ("operation", "rm") in labels) == 50
        # Each denial has exactly one record.
        targets = Counter(r["input_summary"] for r in service.records("denied") if r["operation"] == "rm")
        assert len(targets) == 50 and set(targets.values()) == {1}
        opened = [r for r in many.singles(service.records("allowed")) if r["object"] == "/etc/hostname"]
        assert sum(r["count"] for r in opened) == 50


def test_monitor_mode() -> None:
    """Monitor mode decides and records, and never acts."""
    with Service({}) as service, listening() as port, Sleeper() as sleeper:
        service.write_policy({"bot": hammered(service, mode="monitor")})
        assert service.reload().returncode == 0
        (service.folder / "secret-key").write_text("x")
        (service.folder / "victim").write_text("x")
        (service.folder / "program").write_bytes(Path("/bin/true").read_bytes())
        (service.folder / "program").chmod(0o755)
        service.tag(sleeper.pid)
        assert sleeper.do("connect", str(port)) == "ok"
        assert sleeper.do("open", service.folder / "secret-key") == "ok"
        assert sleeper.do("run", service.folder / "program") == "ok 0"
        assert sleeper.do("unlink", service.folder / "victim") == "ok"
        until(lambda: len(service.records("denied")) >= 4, "the records")
        records = service.records("denied")
        assert {r["kernel_operation"] for r in records} >= {"connect", "read", "exec", "delete"}
        assert {r["action"] for r in records} == {"none"} and all(r["metadata"]["monitor"] for r in records)


def test_kill_9_of_a_run(tmp_path: Path) -> None:
    """A run that is killed leaves its workload held; the next run cleans up when the workload is gone."""
    service = Service({"bot": bot(deny=[{"tool": "network"}])})
    log, go = tmp_path / "log", tmp_path / "go"
    code = (
        "import os, socket, sys, time\nprint(os.getpid(), flush=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.05)\n"
        "print(socket.socket().connect_ex(('127.0.0.1', int(sys.argv[2]))), flush=True)\ntime.sleep(1000)\n"
    )
    try:
        with listening() as port:
            run = subprocess.Popen(
                [sys.executable, "-m", "agentd", "run", "--agent", "bot", "--policy", service.policy, "--state", log,
                 "--", PYTHON, "-I", "-S", "-c", code, go, str(port)],
                stdout=subprocess.PIPE,
            )  # fmt: skip
            assert run.stdout is not None
            pid = int(run.stdout.readline())
            leftover = Path(f"/run/agentd/run-{run.pid}.sock")
            pins = next(
                path for path in Path("/sys/fs/bpf/agentd-run").iterdir() if path.name.startswith(f"{run.pid}-")
            )
            assert leftover.exists()
            run.kill()
            run.wait()
            go.write_text("")
            assert run.stdout.readline() == b"1\n"
            run.stdout.close()
            other = agentd("run", "--agent", "bot", "--policy", service.policy, "--state", tmp_path / "2", "--", "true")
            assert other.returncode == 0 and f"{pins}: left by an agentd that is gone" in other.stderr, other
            assert pins.exists() and not leftover.exists()
            os.kill(pid, signal.SIGKILL)
            until(lambda: state(pid) in "ZX", "its end")
            again = agentd("run", "--agent", "bot", "--policy", service.policy, "--state", tmp_path / "3", "--", "true")
            assert again.returncode == 0 and str(pins) not in again.stderr, again
            assert not pins.exists()
            assert agentd("audit", "verify", "--strict", log).returncode == 0
    finally:
        service.close()


@contextlib.contextmanager
def tiny_disk(kib: int) -> Iterator[Path]:
    """A file system that is soon full."""
    folder = Path(tempfile.mkdtemp(prefix="agentd-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=700", "agentd-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


def test_full_disk() -> None:
    """With the disk full a strict agent is denied, another goes on; both recover, and the chain has no hole."""
    allowed = bot(allow=[{"tool": "file_reader"}, {"tool": "network"}, {"tool": "shell"}], deny=[{"tool": "email"}])
    with tiny_disk(256) as disk, listening() as port:
        agents = {"bot": allowed, "strict": allowed | {"audit": "strict"}}
        with Service(agents, audit_dir=str(disk)) as service, Sleeper() as easy, Sleeper() as strict:
            service.audit = disk
            service.tag(easy.pid, "bot")
            service.tag(strict.pid, "strict")
            assert strict.do("connect", str(port)) == "ok"
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
                while out.write(b"x" * 4096):
                    pass
            until(
                lambda: service.cli("tag", "--agent", "bot", "--pid", str(easy.pid)) and unwritable(service), "ENOSPC"
            )
            assert strict.do("connect", str(port)) == "errno 1"
            assert easy.do("connect", str(port)) == "ok"
            assert "NOT WRITING" in service.cli("status").stdout
            ballast.unlink()
            until(lambda: not unwritable(service), "the recovery")
            assert strict.do("connect", str(port)) == "ok"
            assert strict.do("open", "/etc/hostname") == "ok"
            service.end()
            service.verify()
            refusals = [r for r in service.records("denied") if r["agent_id"] == "strict"]
            assert len(refusals) == 1 and "could not be written" in refusals[0]["reason"], refusals


def unwritable(service: Service) -> bool:
    return bool(service.call("status")["audit"]["failed"])


def test_audit_verbs() -> None:
    """tail and show tell of a denial what the log has."""
    with Service({"bot": bot()}) as service, Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        assert sleeper.do("connect", str(port)) == "errno 1"
        until(lambda: service.records("denied"), "the record")
        tail = agentd("audit", "tail", "--decision", "deny", "--json", service.audit)
        record = json.loads(tail.stdout.splitlines()[-1])
        assert record["object"]["port"] == port and record["process"]["pid"] == sleeper.pid
        shown = agentd("audit", "show", str(record["seq"]), service.audit)
        assert shown.returncode == 0 and "default-deny" in shown.stdout
        service.verify()
