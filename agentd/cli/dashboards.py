"""`agentd dashboards`: what Prometheus and Grafana need, out of the package into a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from agentd.errors import AgentdError
from agentd.resources import monitoring_dir


@click.group(epilog="Example: agentd dashboards export /tmp/agentd-monitoring")
def dashboards() -> None:
    """Dashboards for Grafana, rules and alerts for Prometheus."""


@dashboards.command("export", epilog="Example: agentd dashboards export /tmp/agentd-monitoring")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def export(folder: Path, force: bool) -> None:
    """Write dashboards, recording rules, alerts and examples of configuration to DIR.

    \b
    dashboards/*.json      import them in Grafana, or put them where grafana/dashboards.yml says
    agentd-rules.yml       recording rules; the dashboards read these
    agentd-alerts.yml      alerts
    prometheus.yml         how to scrape agentd, with both
    grafana/*.yml          provisioning of the dashboards and of the data source
    """
    source = monitoring_dir()
    files = sorted(path for path in source.rglob("*") if path.suffix in (".json", ".yml"))
    there = [path for path in files if (folder / path.relative_to(source)).exists()]
    if there and not force:
        name = folder / there[0].relative_to(source)
        raise AgentdError("usage", str(name), "it is there already", "choose another folder, or --force", exit_code=2)
    for path in files:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        click.echo(str(target))
