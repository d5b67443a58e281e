"""`python -m dashboards [FOLDER]`: writes the dashboards."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from agentd.resources import monitoring_dir
from dashboards.boards import BOARDS


def texts() -> dict[str, str]:
    """Each dashboard as its file says it."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {f"{name}.json": encoder.encode(make().build()) + "\n" for name, make in BOARDS.items()}


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else monitoring_dir() / "dashboards")
