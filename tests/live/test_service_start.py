"""The service's life: start, refusal to start, stop, release."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live.service import Line, Service, Sleeper, agentd, bot, listening, until

pytestmark = pytest.mark.root


def start_refused(service: Service, code: int) -> str:
    """The one line with which `agentd daemon` refuses to start; nothing is pinned then."""
    line = Line.of(agentd("daemon", "--config", service.config), code).text
    assert not service.pins.exists()
    return line


def test_start_and_stop() -> None:
    """The service starts, says what it enforces, ends on SIGTERM with 0, and its log tells both."""
    with Service({"bot": bot()}) as service:
        status = service.call("status")
        assert status["policy"]["agents"] == ["bot"]
        assert status["pins"] == str(service.pins)
        assert service.end() == 0
        told = [r["event"] for r in service.records()]
        # The key is introduced a second after the start, which may be before the end on a loaded machine.
        assert [event for event in told if event not in ("signing_key", "signed")] == [
            "started",
            "policy_loaded",
            "stopped",
        ]
        assert told.count("signing_key") == 1 and told[-1] == "signed"
        assert not service.socket.exists()
        service.verify()
        assert service.said == ""


@pytest.mark.parametrize(
    ("on_stop", "number", "expected"), [("keep", signal.SIGTERM, "errno 1"), ("release", signal.SIGINT, "ok")]
)
def test_stop_keeps_or_releases(on_stop: str, number: signal.Signals, expected: str) -> None:
    """After a stop, enforcement goes on by the pins (on_stop: keep) or ends (on_stop: release)."""
    with Service({"bot": bot()}, on_stop=on_stop) as service, Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        assert sleeper.do("connect", str(port)) == "errno 1"
        assert sleeper.do("open", "/etc/hostname") == "ok"
        assert service.end(number) == 0
        assert service.pins.exists() == (on_stop == "keep")
        assert sleeper.do("connect", str(port)) == expected


def test_release_command() -> None:
    """`agentd release` refuses while the service runs, and afterwards frees what it held."""
    with Service({"bot": bot(deny=[{"tool": "network"}])}) as service, Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        assert sleeper.do("connect", str(port)) == "errno 1"
        refusal = Line.of(agentd("release", "--yes", "--config", service.config), 1).text
        assert "another agentd is in charge; stop that one first" in refusal
        assert service.end() == 0
        assert sleeper.do("connect", str(port)) == "errno 1"
        done = agentd("release", "--yes", "--config", service.config)
        assert done.returncode == 0 and str(service.pins) in done.stdout, done
        assert sleeper.do("connect", str(port)) == "ok"


def test_second_daemon_is_refused() -> None:
    """A second daemon is refused, by the pins, by the socket or by the log, and the first one goes on undisturbed."""
    with Service({"bot": bot()}) as service:
        again = agentd("daemon", "--config", service.config)
        assert "another agentd is in charge" in Line.of(again, 1).text
        other = Service({"bot": bot()}, socket=str(service.socket), audit_dir=str(service.folder / "other"))
        try:
            assert "another agentd serves it" in start_refused(other, 1)
            other.write_config(socket=str(other.socket), audit_dir=str(service.audit))
            assert "another process is writing this log" in start_refused(other, 1)
        finally:
            other.close()
        assert service.call("status")["policy"]["agents"] == ["bot"]


def test_bad_start() -> None:
    """A bad configuration or policy is refused with one line that names the place, before the kernel is touched."""
    service = Service({"bot": bot()})
    try:
        good = service.config.read_text()
        for text, expected in (
            ("polcy: /x\n", "agentd.yaml:1:1: polcy"),
            ("metrics_port: 70000\n", "metrics_port: expected a number from 0 to 65535"),
            ("socket: here\n", "socket: not an absolute path"),
            ("bpffs_dir: /tmp/x\n", "bpffs_dir: not below the bpf file system"),
            ("on_stop: maybe\n", "on_stop"),
            ("arena_mib: 3\n", "3 is not a power of two"),
            ("a: [\n", "agentd.yaml:"),
        ):
            service.config.write_text(text)
            assert expected in start_refused(service, 1), text
        service.config.write_text(good)
        service.policy.write_text("version: 1\nagents:\n  bot: {allow: [{tool: shell, operations: execute}]}\n")
        line = start_refused(service, 1)
        assert "policy.yaml:3:" in line and "expected a list" in line
        service.policy.unlink()
        assert "there is no policy" in start_refused(service, 1)
        service.write_policy({"bot": bot()})
        service.write_config(socket="/proc/agentd.sock")
        assert "socket /proc/agentd.sock" in start_refused(service, 1)
        service.write_config(socket=str(service.socket), audit_dir="/proc/audit")
        assert "/proc/audit" in start_refused(service, 1)
        with listening() as port:
            service.write_config(audit_dir=str(service.audit), metrics_port=port)
            assert "address already in use" in start_refused(service, 1).lower()
        missing = agentd("daemon", "--config", service.folder / "none.yaml")
        assert "none.yaml" in Line.of(missing, 2).text
    finally:
        service.close()


def test_bad_policy_with_pins_keeps_the_old_one() -> None:
    """A start refused for its policy leaves the pinned policy in force."""
    with Service({"bot": bot(deny=[{"tool": "network"}])}) as service, Sleeper() as sleeper, listening() as port:
        service.tag(sleeper.pid)
        service.crash()
        service.policy.write_text("version: 1\nagents: {}\n")
        Line.of(agentd("daemon", "--config", service.config), 1)
        assert service.pins.exists()
        assert sleeper.do("connect", str(port)) == "errno 1"
        service.write_policy({"bot": bot(allow=[{"tool": "network"}])})
        service.start()
        assert sleeper.do("connect", str(port)) == "ok"


def test_the_watchdog_is_fed_by_progress_alone() -> None:
    """Systemd's watchdog is fed again and again; not while the daemon's loop stands still, though the daemon lives."""
    with Service({"bot": bot()}) as service, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        place = service.folder / "notify"
        place.unlink()
        manager.bind(str(place))
        manager.settimeout(0.1)

        def told(word: bytes) -> bool:
            said = False
            with contextlib.suppress(TimeoutError):
                while True:
                    said |= word in manager.recv(4096)
            return said

        until(lambda: told(b"WATCHDOG=1"), "food")
        until(lambda: told(b"WATCHDOG=1"), "food again")
        service.policy.unlink()
        os.mkfifo(service.policy)  # what a disk that doesn't answer is like
        command = [sys.executable, "-m", "agentd", "reload", "--socket", service.socket]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as reload:
            until(lambda: told(b"RELOADING=1"), "the reload")
            time.sleep(2.5)
            assert not told(b"WATCHDOG=1") and service.process is not None and service.process.poll() is None
            service.write_policy({"bot": bot()})
        assert reload.returncode == 0
        until(lambda: told(b"WATCHDOG=1"), "food after it")


def test_not_root() -> None:
    """Without root the daemon, release and run are refused with one line."""
    service = Service({"bot": bot()})
    try:
        os.chmod(service.folder, 0o755)
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        source = "import sys; from agentd.cli import main; main(sys.argv[1:])"
        for words, code in (
            (["daemon", "--config", service.config], 125),
            (["release", "--yes"], 125),
            (["run", "--agent", "bot", "--policy", service.policy, "--", "true"], 125),
        ):
            done = subprocess.run(
                [sys.executable, "-c", source, *words], capture_output=True, text=True, check=False, **nobody
            )
            assert "needs root" in Line.of(done, code).text
    finally:
        service.close()


def test_status(tmp_path: Path) -> None:
    """Status shows the same in a pipe, as JSON and on a terminal; a workload that ends leaves it and is recorded."""
    nothing = agentd("status", "--socket", tmp_path / "none.sock")
    assert "is agentd running?" in Line.of(nothing, 1).text
    with Service({"bot": bot()}) as service, Sleeper() as sleeper:
        service.tag(sleeper.pid)
        plain = service.cli("status")
        assert plain.returncode == 0 and "\x1b" not in plain.stdout
        assert "agentd tag pid" in plain.stdout and "contained" in plain.stdout
        made = json.loads(service.cli("status", "--json").stdout)
        assert [w["processes"] for w in made["workloads"]] == [1]
        assert {row["operation"] for row in made["enforcement"]} >= {"exec", "read", "connect"}
        command = f"{sys.executable} -m agentd status --socket {service.socket}"
        typed = subprocess.run(
            ["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=False,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert typed.returncode == 0 and "contained" in typed.stdout and "\x1b" in typed.stdout
        sleeper.process.kill()
        until(lambda: not service.call("status")["workloads"], "the end of the workload")
        until(lambda: service.records("workload_ended"), "its record")
