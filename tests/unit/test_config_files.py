"""agentd.yaml with drop-ins and environments, and what `agentd config show` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentd.cli import main
from agentd.daemon import config
from agentd.daemon.config import KEYS, LIVE, pins_of, read_config, settings
from agentd.policy.problem import PolicyError


def write(folder: Path, **files: str) -> Path:
    """agentd.yaml is `main`; `a` is agentd.yaml.d/a.yaml and `prod__a` stands in the folder prod of that."""
    for name, text in files.items():
        path = folder / "agentd.yaml" if name == "main" else folder / f"agentd.yaml.d/{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "agentd.yaml"


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    """A drop-in replaces the keys it has, those of `audit:` one by one, and leaves the others."""
    file = write(
        tmp_path,
        main="metrics_port: 1\nworkspace: /w\naudit: {file_mib: 1, keep_mib: 7}\n",
        **{"10": "metrics_port: 2\n", "20": "metrics_port: 3\naudit: {file_mib: 2}\n"},
    )
    made = read_config(file)
    assert (made.metrics_port, made.workspace) == (3, "/w")
    assert (made.audit.limits.file_bytes >> 20, made.audit.limits.keep_bytes >> 20) == (2, 7)


def test_show_names_the_place_of_every_value(tmp_path: Path) -> None:
    """Each key is there once, with its value and the line that it comes from, or as a default."""
    file = write(
        tmp_path,
        main="metrics_port: 1\nsocket: /s\n"
        "audit: {file_mib: 1, sinks: {otlp: {endpoint: 'https://x/', headers: {a: t0k}}}}\n",
        **{"10": "# why\naudit: {file_hours: 2}\nmetrics_port: 2\n"},
    )
    found = {one.key: one for one in settings(file)}
    assert len(found) == len(settings(file))
    assert {key.split(".")[0] for key in found} == set(KEYS)
    assert found["metrics_port"].value == 2 and found["metrics_port"].origin == f"{file}.d/10.yaml:3:15"
    assert found["audit.file_mib"].origin == f"{file}:3:19" and found["audit.file_hours"].value == 2
    assert found["policy"].value == "/etc/agentd/policies" and found["policy"].origin == ""
    assert found["audit.keep_mib"].origin == ""
    assert not any("t0k" in str(one.value) for one in found.values())  # nobody's token is printed


def test_show_on_the_command_line(tmp_path: Path) -> None:
    """`config show` prints a table, and JSON with the files of the policy."""
    policies = tmp_path / "policies"
    (policies / "prod").mkdir(parents=True)
    for name in ("10-a.yaml", "prod/x.yaml"):
        (policies / name).write_text("version: 1\nagents: {}\n")
    file = write(tmp_path, main=f"environment: prod\npolicy: {policies}\n")
    done = CliRunner().invoke(main, ["config", "show", "--config", str(file)])
    assert done.exit_code == 0 and f"{file}:2:9" in done.output and "default" in done.output
    made = json.loads(CliRunner().invoke(main, ["config", "show", "--json", "--config", str(file)]).output)
    assert made["policy_files"] == [str(policies / "10-a.yaml"), str(policies / "prod/x.yaml")]
    assert {"key": "environment", "value": "prod", "from": f"{file}:1:14"} in made["settings"]


def test_a_mistake_names_its_file(tmp_path: Path) -> None:
    """An unknown key or a wrong value of a drop-in is an error at its own place."""
    file = write(tmp_path, main="metrics_port: 1\n", **{"10": "\nmetrics_prt: 2\non_stop: maybe\n"})
    with pytest.raises(PolicyError) as caught:
        read_config(file)
    assert [problem.where for problem in caught.value.problems] == [f"{file}.d/10.yaml:2:1", f"{file}.d/10.yaml:3:10"]


def test_an_environment_adds_and_never_loosens(tmp_path: Path) -> None:
    """An environment sets what is harmless and unset; anything else is refused unless it says `loosens: true`."""
    file = write(tmp_path, main="environment: prod\nmetrics_port: 1\n", prod__a="pending_per_agent: 5\non_stop: keep\n")
    assert read_config(file).pending_per_agent == 5
    for text in (
        "metrics_port: 2\n", "on_stop: release\n", "policy: /other\n", "resolvers: [10.0.0.1]\n",
        "audit: {keep_days: 1}\n",
    ):  # fmt: skip
        write(tmp_path, prod__a=text)
        with pytest.raises(PolicyError, match="loosens: true"):
            read_config(file)
        write(tmp_path, prod__a=f"loosens: true\n{text}")
        assert read_config(file) != read_config(write(tmp_path, prod__a="{}\n"))
    silent = write(tmp_path / "silent", main="environment: prod\n", prod__a="metrics_port: 0\n")
    with pytest.raises(PolicyError, match="loosens: true"):
        read_config(silent)
    write(tmp_path, prod__a="loosens: true\nenvironment: dev\n")
    with pytest.raises(PolicyError, match="can't choose another"):
        read_config(file)


def test_an_environment_that_is_not_chosen_is_not_read(tmp_path: Path) -> None:
    """Without `environment:` the folders of environments mean nothing, and a path is no environment."""
    file = write(tmp_path, main="metrics_port: 1\n", prod__a="metrics_port: [\n")
    assert read_config(file).metrics_port == 1
    with pytest.raises(PolicyError, match="not the name of an environment"):
        read_config(write(tmp_path, main="environment: ../prod\n"))


def test_a_file_that_looks_as_if_it_counted_is_an_error(tmp_path: Path) -> None:
    """A drop-in or policy in `.yml` or `.YAML`, or agentd.yaml as a link to nothing, is no host without it."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/10.yaml").write_text("version: 1\nagents: {}\n")
    file = write(tmp_path, main=f"policy: {tmp_path}/policies\n", a="metrics_port: 1\n")
    check = ["daemon", "--check", "--config", str(file)]
    assert CliRunner().invoke(main, check).exit_code == 0
    for folder in (tmp_path / "policies", tmp_path / "agentd.yaml.d"):
        for name in ("20-deny.yml", "20-DENY.YAML"):
            (folder / name).write_text("version: 1\nagents: {}\n")
            refused = CliRunner().invoke(main, check)
            assert refused.exit_code == 2 and "name it" in refused.output and name in refused.output
            (folder / name).unlink()
        for name in (".20.yml", "20.yaml~", "20.yaml.dpkg-old", "a.cases.yaml", "README"):
            (folder / name).write_text("[")
    assert CliRunner().invoke(main, check).exit_code == 0
    file.unlink()
    file.symlink_to(tmp_path / "nothing")
    with pytest.raises(PolicyError, match="can't be read"):
        read_config(file)


def test_the_default_file_as_a_link_to_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /etc/agentd/agentd.yaml the defaults stand; with one that leads nowhere, nothing does."""
    place = tmp_path / "agentd.yaml"
    monkeypatch.setattr(config, "DEFAULT_FILE", place)
    assert read_config(None).metrics_port == 9469
    place.symlink_to(tmp_path / "nothing")
    with pytest.raises(PolicyError, match="can't be read"):
        read_config(None)


def test_release_finds_the_pins_of_a_configuration_that_is_wrong_elsewhere(tmp_path: Path) -> None:
    """Who ends enforcement needs one key; mistakes in others, or a credential that is gone, don't keep the pins."""
    file = write(tmp_path, main="bpffs_dir: /sys/fs/bpf/x\nno_such_key: 1\nmetrics_port: many\n")
    with pytest.raises(PolicyError):
        read_config(file)
    assert pins_of(file) == Path("/sys/fs/bpf/x")
    assert pins_of(write(tmp_path, main="metrics_port: many\n")) == Path("/sys/fs/bpf/agentd")
    for text in ("bpffs_dir: /etc\n", "bpffs_dir: [\n"):
        with pytest.raises(PolicyError):
            pins_of(write(tmp_path, main=text))


def test_a_credential_may_be_missing_while_the_service_is_down(tmp_path: Path) -> None:
    """What systemd hands to the service alone is needed by the service alone; any other secret by whoever looks."""
    text = "notify:\n  - {webhook: 'http://h/', secret_file: %s}\n"
    file = write(tmp_path, main=text % "/run/credentials/agentd.service/no-such-secret")
    assert read_config(file).notify
    with pytest.raises(PolicyError, match="can't be read"):
        read_config(file, service=True)
    with pytest.raises(PolicyError, match="can't be read"):
        read_config(write(tmp_path, main=text % "/run/credentials/../no-such-secret"))


def test_what_a_reload_does_not_change_is_told(tmp_path: Path) -> None:
    """Keys that differ are named, except those that a reload puts in force."""
    before = read_config(write(tmp_path, main="metrics_port: 1\n"))
    text = "metrics_port: 2\non_stop: release\nnotify: [{journald: true}]\npolicy: /p\nenvironment: e\noverlay: /o\n"
    after = read_config(write(tmp_path, main=text))
    assert after.changed(before) == ["metrics_port", "notify", "on_stop"]
    assert set(KEYS) > LIVE
