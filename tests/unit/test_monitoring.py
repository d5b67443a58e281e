"""The shipped Prometheus files, checked and tried by Prometheus's own tool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from agentd.cli import main
from agentd.errors import AgentdError
from agentd.metrics import Metrics
from agentd.resources import monitoring_dir
from dashboards.__main__ import texts

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


def test_dashboards_are_what_the_generator_makes() -> None:
    """Nobody has edited the shipped dashboards by hand, and each is small enough to be imported."""
    shipped = {file.name: file.read_text() for file in (monitoring_dir() / "dashboards").iterdir()}
    assert shipped == texts(), "write them again: .venv/bin/python -m dashboards"
    assert all(len(text) < 200_000 for text in shipped.values())


def test_dashboards_are_read_as_they_were_written() -> None:
    """Grafana's own library takes each shipped file apart by its schema, and makes the same of it again."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    for file in sorted((monitoring_dir() / "dashboards").iterdir()):
        text = file.read_text()
        assert encoder.encode(Dashboard.from_json(json.loads(text))) + "\n" == text, file.name


def test_dashboards_read_no_series_that_grow_with_tools() -> None:
    """No panel reads the raw counters that a host has hundreds of; their recording rules have only what moves."""
    for name, text in texts().items():
        for raw in ("agentd_decisions_total", "agentd_rule_hits_total", "agentd_verdict_seconds_bucket"):
            assert raw not in text, name


def test_export_writes_everything_once(tmp_path: Path) -> None:
    """`dashboards export` writes what ships, and replaces nothing unless told to."""
    folder = tmp_path / "out"
    done = CliRunner().invoke(main, ["dashboards", "export", str(folder)])
    assert done.exit_code == 0, done.output
    written = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    assert len(written) == 9 and Path("dashboards/decisions.json") in written
    assert all((monitoring_dir() / name).read_bytes() == data for name, data in written.items())
    (folder / "prometheus.yml").write_text("mine")
    with pytest.raises(AgentdError, match="already"):
        main.main(["dashboards", "export", str(folder)], standalone_mode=False)
    assert (folder / "prometheus.yml").read_text() == "mine"
    main.main(["dashboards", "export", "--force", str(folder)], standalone_mode=False)
    assert (folder / "prometheus.yml").read_text() != "mine"
