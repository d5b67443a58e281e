"""The shipped Prometheus files, checked and tried by Prometheus's own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.metrics import Metrics
from agentd.resources import monitoring_dir

RULES = ("agentd-rules.yml", "agentd-alerts.yml")
TESTS = Path(__file__).parent / "monitoring/rules.test.yml"


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    return found


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def rules(file: str) -> list[dict[str, Any]]:
    made = yaml.safe_load((monitoring_dir() / file).read_text())
    return [rule for group in made["groups"] for rule in group["rules"]]


def test_promtool_takes_the_configuration(promtool: str) -> None:
    """prometheus.yml and the rules it names are valid, and promtool would say if they were not."""
    for command in (("check", "config", "prometheus.yml"), ("check", "rules", *RULES)):
        done = subprocess.run([promtool, *command], cwd=monitoring_dir(), capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "FAILED" not in done.stdout + done.stderr, done
    bad = subprocess.run(
        [promtool, "check", "rules", "prometheus.yml"], cwd=monitoring_dir(), capture_output=True, check=False
    )
    assert bad.returncode != 0


def test_rules_do_as_they_should(promtool: str) -> None:
    """The rules' own tests pass: `promtool test rules`."""
    done = subprocess.run(
        [promtool, "test", "rules", TESTS.name], cwd=TESTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_and_stays_quiet_in_a_test() -> None:
    """Each alert has a test in which it fires and one in which it doesn't."""
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules("agentd-alerts.yml")}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_rules_speak_of_metrics_that_exist() -> None:
    """Each series that a rule reads is one that agentd gives or another rule records."""
    metrics = Metrics("1")
    metrics.declare_enforcement([("exec", "lsm", "prevented")])
    metrics.read_programs(["p"], dict)
    metrics.read_maps({"m": 1}, dict)
    given = {line.split("{")[0].split(" ")[0] for line in metrics.exposition().splitlines() if line[:1] != "#"}
    recorded = {rule["record"] for rule in rules("agentd-rules.yml")}
    for file in RULES:
        for rule in rules(file):
            for name in re.findall(r"\bagentd[_:][a-z0-9_:]+", rule["expr"]):
                assert name in given | recorded, (rule, name)
