"""vagrant/provision.sh with a host's programs replaced by ones that note what they were asked."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = re.compile(r"(?=/(etc|usr/local|srv|var/lib)/)")  # whatever it writes on a host


def host(folder: Path, apt_get: str = "exit 0") -> Path:
    """A folder that is the root of a host without Prometheus and Grafana."""
    programs = {
        "apt-get": apt_get,
        "apt-cache": "exit 1",
        "systemctl": "exit 0",
        "agentd": f'[ "$1" != dashboards ] || cp -r {ROOT}/agentd/monitoring/. "$3"',
    }
    (folder / "bin").mkdir()
    for name, text in programs.items():
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/asked\n{text}\n', encoding="utf-8")
        path.chmod(0o755)
    for name in ("etc/agentd/policies", "etc/agentd/monitoring", "src/dist", "src/vagrant"):
        (folder / name).mkdir(parents=True)
    (folder / "src/vagrant/demo").symlink_to(ROOT / "vagrant/demo")
    return folder


def provision(root: Path) -> tuple[int, str, list[str]]:
    """How provision.sh ended, what it wrote to standard error, and what it asked of the host's programs."""
    text = (ROOT / "vagrant/provision.sh").read_text(encoding="utf-8")
    asked = root / "asked"
    asked.write_text("", encoding="utf-8")
    done = subprocess.run(
        ["bash", "-c", PLACES.sub(str(root), text), "provision.sh", root / "src"], capture_output=True, text=True,
        timeout=60, check=False, env={**os.environ, "PATH": f"{root}/bin:{os.environ['PATH']}"},
    )  # fmt: skip
    return done.returncode, done.stderr, asked.read_text(encoding="utf-8").splitlines()


def test_without_a_package_it_says_what_to_make(tmp_path: Path) -> None:
    """It names what is missing before it asks apt for anything; with a package it goes on, and ends as apt does."""
    root = host(tmp_path, "exit 7")
    status, words, asked = provision(root)
    assert status == 1 and "./dev package" in words and asked == []
    (root / "src/dist/agentd_0_amd64.deb").touch()
    assert provision(root) == (7, "", ["apt-get -q update"])


def test_a_host_that_has_prometheus_and_grafana_gets_their_files_and_they_read_them(tmp_path: Path) -> None:
    """Rules, data source and dashboards lie where both look, and both are restarted after that, at each provisioning;
    a host without them gets neither.
    """
    root = host(tmp_path)
    (root / "src/dist/agentd_0_amd64.deb").touch()
    status, words, asked = provision(root)
    assert (status, words) == (0, "") and not any("restart" in line for line in asked)
    assert "systemctl enable --now agentd@demo" in asked and (root / "etc/agentd/policies/20-demo.yaml").is_file()
    (root / "etc/prometheus").mkdir()
    for name in ("dashboards", "datasources"):
        (root / "etc/grafana/provisioning" / name).mkdir(parents=True)
    for _ in range(2):
        status, words, asked = provision(root)
        assert (status, words) == (0, "")
        assert [line for line in asked if "restart" in line] == [
            "systemctl restart prometheus", "systemctl restart grafana-server"
        ]  # fmt: skip
    assert (root / "etc/prometheus/agentd-alerts.yml").is_file()
    assert (root / "var/lib/grafana/dashboards/agentd/decisions.json").is_file()
    assert (root / "etc/grafana/provisioning/datasources/agentd.yml").is_file()
