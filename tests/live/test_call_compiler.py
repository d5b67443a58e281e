"""The compiler of the probes for library calls, and the probes themselves, when they fail: nothing is let pass."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.calls import fetchers
from agentd.daemon import host as composition
from agentd.errors import AgentdError
from tests.live import harness, probes
from tests.live.service import Line, Service, Sleeper, agentd, state, until
from tests.live.test_library_calls import SQLITE
from tests.live.test_probing import metrics

pytestmark = pytest.mark.root

QUERY = {"tool": "sqlite", "operations": ["query"]}
MORE = {"tool": "curl"}
BCC = "/usr/lib/python3/dist-packages/bcc"


def querying(*rules: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """An agent that may query and do what isn't told to libraries."""
    return harness.agent(allow=[QUERY, *rules], on_violation="kill", **keys)


def compilers(parent: int) -> Iterator[int]:
    """The helpers that a process has now."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{parent}/task").iterdir():
            for word in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    if b"/compile.py\0" in Path(f"/proc/{word}/cmdline").read_bytes():
                        yield int(word)


def compiling(pid: int) -> bool:
    """Has it its compiler in memory?"""
    with contextlib.suppress(OSError):
        return "libbcc" in Path(f"/proc/{pid}/maps").read_text()
    return False


@contextlib.contextmanager
def killing(parent: int, moment: str) -> Iterator[list[int]]:
    """SIGKILL for every compiler of `parent`: at once, or when it has its compiler in memory. Yields whom it was."""
    killed: list[int] = []
    stop = threading.Event()

    def hunt() -> None:
        while not stop.wait(0.001):
            for pid in compilers(parent):
                with contextlib.suppress(OSError):
                    if moment == "begun" or compiling(pid):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def test_a_reload_whose_compiler_is_killed_changes_nothing() -> None:
    """One line, a record and a count; the probes before judge on, also for run and tag."""
    with Service({"bot": querying()}, metrics=True) as service:
        assert service.process is not None
        service.write_policy({"bot": querying(MORE)})
        with killing(service.process.pid, "compiling") as killed:
            refused = Line.of(service.reload(), 1)
        assert killed and "library calls of the policy: the compiler was ended by SIGKILL" in refused.text, refused
        (rejected,) = service.records("policy_rejected")
        assert rejected["metadata"]["code"] == "kernel-load"
        assert 'policy_reloads_total{result="rejected"} 1.0' in metrics(service)
        drop = probes.python(SQLITE, service.folder / "a.db", "drop table kept")
        done = service.run(*drop)
        assert (done.returncode, done.stdout.split("\n")[:2]) == (128 + signal.SIGKILL, ["made 1", "attempt"]), done
        select = probes.python(SQLITE, service.folder / "a.db", "select 1")
        assert "ok 1" in service.run(*select).stdout
        with Sleeper() as sleeper:
            service.tag(sleeper.pid)
            assert sleeper.do("run", "sqlite3", service.folder / "a.db", "select/**/1") == "ok 0"
            assert sleeper.do("run", "sqlite3", service.folder / "a.db", "drop/**/table/**/kept") == "ok -9"
        assert service.reload().returncode == 0
        assert "ok 1" in service.run(*select).stdout
        assert not [*compilers(service.process.pid)]


def test_run_starts_nothing_without_its_probes(tmp_path: Path) -> None:
    """The compiler killed, or bcc not there: exit 125, one line, and the command has not run. With both it runs."""
    policy, mark = tmp_path / "policy.yaml", tmp_path / "mark"
    policy.write_text(yaml.safe_dump({"version": 1, "agents": {"bot": querying()}}))
    words = [
        "-m",
        "agentd",
        "run",
        "--agent",
        "bot",
        "--policy",
        policy,
        "--state",
        tmp_path / "log",
        "--",
        "touch",
        mark,
    ]
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True) as run:
        with killing(run.pid, "compiling") as killed:
            assert run.stderr is not None
            said = run.stderr.read()
        assert run.wait() == 125 and killed, said
    assert "the compiler was ended by SIGKILL" in Line.of(subprocess.CompletedProcess([], 125, "", said), 125).text
    hidden = f'mount -t tmpfs none {BCC} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden, "sh", sys.executable, *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = Line.of(done, 125).text
    assert "bcc is not installed" in said and "python3-bpfcc" in said
    assert not mark.exists()
    assert agentd(*words[2:]).returncode == 0
    assert mark.exists(), "the control"


def test_what_does_not_compile_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the compiler's own error; nothing is enforced, and the log says nothing of a policy."""

    def broken(folder: Path) -> None:
        (folder / "include/linux").mkdir(parents=True)
        (folder / "include/linux/kconfig.h").write_text('#error "no header of this host"\n')

    with monkeypatch.context() as patch:
        patch.setattr(fetchers, "write_headers", broken)
        with pytest.raises(AgentdError, match="no header of this host") as raised:
            harness.Host(tmp_path, {"bot": querying()})
    assert "\n" not in str(raised.value) and raised.value.exit_code == 125
    assert "policy_loaded" not in (tmp_path / "audit/audit.jsonl").read_text()
    with harness.enforcing(tmp_path, {"bot": querying()}) as host:
        assert host.run(probes.python(SQLITE, tmp_path / "a.db", "select 1")).value == "1"


def test_a_compiler_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start it may take minutes, at a reload seconds, because a service has to give signs of life then."""
    helper = tmp_path / "helper.py"
    helper.write_text("import time\ntime.sleep(1000)\n")
    with monkeypatch.context() as patch:
        patch.setattr(fetchers, "HELPER", helper)
        patch.setattr(fetchers, "STARTING", 1)
        with pytest.raises(AgentdError, match="the compiler was not done in 1 seconds"):
            harness.Host(tmp_path, {"bot": querying()})
    assert fetchers.STARTING > fetchers.SECONDS
    with harness.enforcing(tmp_path, {"bot": querying()}) as host:
        policy = tmp_path / "more.yaml"
        policy.write_text(yaml.safe_dump({"version": 1, "agents": {"bot": querying(MORE)}}))
        with monkeypatch.context() as patch:
            patch.setattr(fetchers, "HELPER", helper)
            patch.setattr(fetchers, "SECONDS", 1)
            with pytest.raises(AgentdError, match="the compiler was not done in 1 seconds"):
                host.engine.install(composition.read_policy(policy, str(tmp_path)))
        assert host.run(probes.python(SQLITE, tmp_path / "a.db", "select 1")).value == "1"


def test_a_probe_that_goes_is_found_and_handled_as_the_policy_says() -> None:
    """A record, the metric behind the alert and doctor's exit; an agent that requires its probes is stopped, and not
    started or tagged; one that doesn't goes on, and so does one that has none. A reload mends it.
    """
    agents = {
        "careful": querying(library_calls="required"),
        "plain": querying(),
        "other": harness.agent(library_calls="required"),
    }
    with Service(agents, metrics=True) as service, Sleeper() as careful, Sleeper() as plain, Sleeper() as other:
        for name, sleeper in (("careful", careful), ("plain", plain), ("other", other)):
            service.tag(sleeper.pid, name)
        verified = re.compile(r'enforcement_verified{guarantee="contained",operation="call",point="uprobe"} (\S+)')
        assert verified.findall(metrics(service)) == ["1.0"], "the control"
        next((service.pins / "calls/links").glob("[0-9]*")).unlink()
        until(lambda: service.records("enforcement_failed"), "the record")
        (record,) = service.records("enforcement_failed")
        assert record["kernel_operation"] == "call" and "the pin of " in record["reason"]
        assert verified.findall(metrics(service)) == ["0.0"]
        assert re.search(r'enforcement_failures_total{operation="call"} [1-9]', metrics(service))
        until(lambda: state(careful.pid) == "T", "the stop")
        assert state(plain.pid) != "T" and state(other.pid) != "T"
        assert plain.do("open", "/dev/null") == other.do("open", "/dev/null") == "ok"
        refused = Line.of(service.run("true", agent="careful"), 125)
        assert "a probe failed: call: the pin of" in refused.text
        with Sleeper() as late:
            words = ("tag", "--agent", "careful", "--pid", str(late.pid))
            assert "a probe failed: call" in Line.of(service.cli(*words), 1).text
        assert service.run("true", agent="plain").returncode == 0
        found = json.loads(service.cli("doctor", "--json").stdout)
        (row,) = [row for row in found["operations"] if row["operation"] == "call"]
        assert not row["verified"] and found["exit"] == 2
        assert service.reload().returncode == 0
        assert verified.findall(metrics(service)) == ["1.0"]
        until(lambda: state(careful.pid) != "T", "its going on")
        assert careful.do("open", "/dev/null") == "ok"
        assert service.run("true", agent="careful").returncode == 0


def test_a_helper_that_lives_on_ends_with_its_agentd(tmp_path: Path) -> None:
    """An agentd that is killed while it waits for its compiler leaves no process behind."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({"version": 1, "agents": {"bot": querying()}}))
    words = ["-m", "agentd", "run", "--agent", "bot", "--policy", policy, "--state", tmp_path / "log", "--", "true"]
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL) as run:
        helper = until(lambda: next(filter(compiling, compilers(run.pid)), 0), "the compiler")
        os.kill(helper, signal.SIGSTOP)
        run.kill()
    until(lambda: state(helper) in "XZ", "the end of the helper")
    with contextlib.suppress(ChildProcessError):  # an orphan comes to this process
        os.waitpid(helper, 0)
