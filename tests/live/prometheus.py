"""A real Prometheus beside a service of a test, and the queries of the shipped dashboards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from agentd.resources import monitoring_dir
from tests.live.service import free_port, until

Labels = frozenset[tuple[str, str]]


def program() -> str:
    """The server's program; `./dev setup` fetches it."""
    found = shutil.which("prometheus")
    assert found is not None, "prometheus is not installed: ./dev test fetches it"
    return found


class Prometheus:
    """A server with the shipped rules. targets: ports of loopback that it scrapes, every second.

    data: a folder with blocks to begin with.
    """

    def __init__(self, folder: Path, targets: list[int], data: Path | None = None) -> None:
        self.port = free_port()
        self.folder = folder
        shipped = monitoring_dir()
        config = yaml.safe_load((shipped / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(shipped / name) for name in config["rule_files"]] if targets else []
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = (folder / "prometheus.log").open("wb")
        command = [
            program(), f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address=127.0.0.1:{self.port}",
            f"--storage.tsdb.path={data or folder / 'data'}", "--storage.tsdb.retention.time=10y",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def get(self, path: str, **parameters: str) -> Any:
        """What the API answers."""
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def ready(self) -> bool:
        """Does it answer?"""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=10).close()
        except OSError:
            assert self.process.poll() is None, (self.folder / "prometheus.log").read_text()[-2000:]
            return False
        return True

    def query(self, expression: str, at: float | None = None) -> dict[Labels, float]:
        """The instant value of an expression, by labels (the name and Prometheus's own left out)."""
        made = self.get("/api/v1/query", query=expression, time=str(at or time.time()))
        return {
            frozenset((k, v) for k, v in row["metric"].items() if k not in ("__name__", "instance", "job")): float(
                row["value"][1]
            )
            for row in made["data"]["result"]
        }

    def __enter__(self) -> Prometheus:
        until(self.ready, "Prometheus")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel with its queries, the variables set to everything."""

    board: str
    title: str
    kind: str
    queries: tuple[str, ...]


def panels() -> Iterator[Panel]:
    """Every panel of every dashboard that has a query."""
    for file in sorted((monitoring_dir() / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            queries = tuple(target["expr"] for target in panel.get("targets", ()))
            filled = tuple(query.replace("$host", ".*").replace("$agent", ".*") for query in queries)
            if filled:
                yield Panel(file.stem, panel["title"], panel["type"], filled)


def promtool(*words: str | os.PathLike[str]) -> None:
    """One run that must succeed."""
    found = shutil.which("promtool")
    assert found is not None
    done = subprocess.run([found, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
