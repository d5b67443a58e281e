"""The ready policies decide what their case files say, and the editor's schema accepts them."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from agentd.policy import resolve
from agentd.policy.cases import load_cases, run_cases
from agentd.policy.schema import SCHEMA
from agentd.policy.source import read_file
from agentd.resources import policies_dir

POLICIES = sorted(path for path in policies_dir().glob("*.yaml") if not path.name.endswith(".cases.yaml"))
READY = [path for path in POLICIES if path.name not in ("catalogue.yaml", "detectors.yaml")]
WORKSPACE = "/home/alice/project"


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_policy_passes_its_cases(path: Path) -> None:
    """Every ready policy has a case file, and every case in it holds."""
    file = path.with_suffix(".cases.yaml")
    policy = resolve.load(path, workspace=WORKSPACE)
    results = list(run_cases(policy, load_cases(read_file(file), str(file))))
    assert results
    assert [str(result) for result in results if not result.passed] == []


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_the_schema_accepts_a_ready_policy(path: Path) -> None:
    """An editor with the schema finds nothing wrong with a shipped policy."""
    jsonschema.Draft202012Validator(SCHEMA).validate(yaml.safe_load(path.read_text()))


def test_coding_agent_has_no_warnings() -> None:
    """Nothing in it means less than it says, and its sites are names, which it may ask for."""
    policy = resolve.load(policies_dir() / "coding-agent.yaml", workspace=WORKSPACE)
    assert policy.warnings == ()
    rules = {rule.id: rule for rule in policy.agents["coding-agent"].rules}
    sites = [text for name in ("registries", "code-hosts", "models") for text in rules[name].hosts_text or ()]
    assert len(sites) > 20 and all(text.endswith(":443") for text in sites)
