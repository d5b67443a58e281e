"""The part `audit:` of agentd.yaml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentd.audit.segments import DAY, Limits
from agentd.audit.sinks import NAMES, maker
from agentd.daemon import evidence
from agentd.daemon.config import Config, read_config
from agentd.daemon.evidence import Evidence
from agentd.metrics.scraped import SINKS
from agentd.policy.problem import PolicyError

GOOD = """
audit:
  keys_dir: /srv/keys
  file_mib: 8
  file_hours: 2
  keep_days: 200
  keep_mib: 1000
  sinks:
    journald: {}
    syslog: {host: logs.example.com, ca: /etc/ca.pem}
    otlp: {endpoint: "https://otel.example.com/v1/logs", headers: {Authorization: secret}}
"""


def read(folder: Path, text: str) -> Evidence:
    path = folder / "agentd.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path).audit


def test_everything_can_be_said(tmp_path: Path) -> None:
    """Keys, files and all sinks, with the arguments that their classes take."""
    found = read(tmp_path, GOOD)
    assert found.keys_dir == Path("/srv/keys")
    assert found.limits == Limits(8 << 20, 7200, 1000 << 20, 200 * DAY)
    assert dict(found.sinks) == {
        "journald": {},
        "syslog": {"host": "logs.example.com", "port": 6514, "ca": "/etc/ca.pem"},
        "otlp": {"endpoint": "https://otel.example.com/v1/logs", "headers": {"Authorization": "secret"}},
    }
    for name, settings in found.sinks:
        maker(name, settings)().close()


def test_every_key_of_a_sink_reaches_its_class(tmp_path: Path) -> None:
    """What the configuration allows to say, the sinks understand."""
    text = """
audit:
  sinks:
    journald: {socket: /run/j}
    syslog: {host: h, port: 1, ca: /a, server_name: n, cert: /c, key: /k}
    otlp: {endpoint: "http://h/v1/logs", ca: /a, headers: {}}
"""
    found = read(tmp_path, text)
    assert {name for name, _ in found.sinks} == set(NAMES) == set(evidence.SINK_KEYS) == set(SINKS)
    for name, settings in found.sinks:
        maker(name, settings)().close()


def test_saying_nothing_keeps_everything_and_sends_nothing(tmp_path: Path) -> None:
    """The defaults: no sink, and no file is removed."""
    for found in (read(tmp_path, "policy: /p"), read(tmp_path, "audit: {}"), Config().audit):
        assert (found.sinks, found.limits.keep_bytes, found.limits.keep_seconds) == ((), 0, 0)


def test_a_start_imports_no_library_of_evidence() -> None:
    """What signs and what sinks need is imported in their threads, after the start."""
    code = "import sys, agentd.daemon.service, agentd.daemon.runner; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert not found & {"cryptography", "opentelemetry", "google", "requests"}
    assert "agentd" in found


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("audit: 3", "1:8"),
        ("audit: {keep_day: 3}", "keep_days"),
        ("audit: {keep_days: -1}", "from 0 to 36500"),
        ("audit: {file_mib: many}", "from 1 to 4096"),
        ("audit: {keys_dir: keys}", "start it with /"),
        ("audit: {sinks: {kafka: {}}}", "unknown key"),
        ("audit: {sinks: {syslog: {}}}", "host is missing"),
        ("audit: {sinks: {syslog: {host: h, tls: no-thanks}}}", "true or false"),
        ("audit: {sinks: {syslog: {host: h, tls: false, ca: /x}}}", "about TLS"),
        ("audit: {sinks: {syslog: {host: h, port: 70000}}}", "65535"),
        ("audit: {sinks: {otlp: {}}}", "endpoint is missing"),
        ("audit: {sinks: {otlp: {endpoint: localhost}}}", "not a URL"),
        ("audit: {sinks: {journald: {socket: journal}}}", "start it with /"),
        ("audit: {sinks: {otlp: {endpoint: 'http://h', headers: [a]}}}", "a mapping"),
    ],
)
def test_a_mistake_has_its_place(tmp_path: Path, text: str, where: str) -> None:
    """Unknown keys, wrong types and what is missing are refused with file, line and column."""
    with pytest.raises(PolicyError) as caught:
        read(tmp_path, text)
    said = "\n".join(map(str, caught.value.problems))
    assert "agentd.yaml:1:" in said
    assert where in said
