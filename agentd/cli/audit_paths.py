"""Where the verbs about the log look when they are told nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT_PATH: Final = Path("/var/lib/agentd/audit/audit.jsonl")
