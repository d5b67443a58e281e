"""The service with a folder of policies: what a reload takes and refuses, and policies compared over its own log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.live.service import Line, Service, agentd, bot

pytestmark = pytest.mark.root


@pytest.fixture
def service() -> Iterator[Service]:
    """A service whose policy is a folder with one file."""
    made = Service({"bot": bot()})
    made.policy.rename(folder_of(made) / "10-base.yaml")
    made.write_config(policy=str(folder_of(made)))
    with made:
        yield made


def folder_of(service: Service) -> Path:
    folder = service.folder / "policies"
    folder.mkdir(exist_ok=True)
    return folder


def put(path: Path, agents: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"version": 1, "agents": agents}))


def works(service: Service, path: Path) -> bool:
    return service.run("/bin/cat", path).returncode == 0


def test_a_reload_takes_all_files_or_none(service: Service) -> None:
    """A drop-in and an environment are in force after a reload; a bad one changes nothing, and is on record."""
    folder = folder_of(service)
    secret = service.folder / "notes"
    secret.write_text("x")
    assert works(service, secret)
    put(folder / "20-more.yaml", {"bot": {"deny": [{"tool": "file_reader", "paths": [str(secret)]}]}})
    assert service.reload().returncode == 0
    assert not works(service, secret)
    # A second file that is wrong: neither it nor the removal of the first one counts.
    good = (folder / "20-more.yaml").read_text()
    (folder / "20-more.yaml").unlink()
    put(folder / "30-bad.yaml", {"bot": {"deny": [{"tol": "file_reader"}]}})
    assert "30-bad.yaml:" in service.reload().stderr
    assert not works(service, secret)
    assert service.records("policy_rejected")
    (folder / "30-bad.yaml").unlink()
    assert service.reload().returncode == 0
    assert works(service, secret)
    # An environment: chosen in agentd.yaml, put in force by a reload, refused where it would loosen.
    (folder / "prod").mkdir()
    (folder / "prod/a.yaml").write_text(good)
    service.write_config(environment="prod", metrics_port=1)
    done = service.reload()
    assert done.returncode == 0 and "after a restart: metrics_port" in done.stdout
    assert not works(service, secret)
    put(folder / "prod/a.yaml", {"bot": {"mode": "monitor"}})
    assert "loosens: true" in Line.of(service.reload(), 1).text
    assert not works(service, secret)


def test_policies_are_compared_over_the_log(service: Service) -> None:
    """`policy diff` names exactly the recorded operations that change; `policy report` counts as the log does."""
    path = service.folder / "data"
    path.write_text("x")
    for _ in range(3):
        assert works(service, path)
    service.run("/bin/sh", "-c", f"/bin/rm {path}; exit 0")
    assert path.exists()
    service.end()
    base = folder_of(service) / "10-base.yaml"
    new = service.folder / "new.yaml"
    changed = bot(deny=[{"tool": "secrets"}, {"tool": "file_reader", "paths": [str(path)]}])
    changed["allow"] = [*changed["allow"], {"tool": "shell", "operations": ["rm"]}]
    put(new, {"bot": changed})
    same = agentd("policy", "diff", base, base, "--log", service.audit)
    assert (same.returncode, same.stdout[:15]) == (0, "nothing changes")
    done = agentd("policy", "diff", base, new, "--log", service.audit, "--json")
    found = {row["summary"].split(" ")[0]: row for row in json.loads(done.stdout)["changes"]}
    assert done.returncode == 1 and set(found) == {"read", "exec"}, done.stdout
    assert (found["read"]["count"], found["read"]["new"]["decision"]) == (3, "deny")
    assert found["exec"]["old"]["decision"].startswith("deny") and found["exec"]["new"]["decision"] == "allow"
    assert "2 of" in agentd("policy", "diff", base, new, "--log", service.audit).stdout
    made = json.loads(agentd("policy", "report", "--config", service.config, "--json").stdout)
    by_rule = {row["rule"]: row["count"] for row in made["rules"]}
    counted: dict[str, int] = dict.fromkeys(by_rule, 0)
    for record in service.records("allowed", "denied"):
        counted[record["rule"]] += record.get("count", 1)
    assert by_rule == counted and by_rule["bot/deny/0"] == 1 and by_rule["bot/deny/1"] == 0
    never = [row["rule"] for row in made["rules"] if not row["count"] and row["where"]]
    assert "bot/deny/1" in never
