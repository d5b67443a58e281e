"""Where the story plays: a workspace, a home with a key in it, a folder that must survive. All of it goes away."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from agentd.demo.servers import Servers

_DATA = Path(__file__).resolve().parent


class Stage:
    """A temporary folder with everything the agent meets."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentd-demo-"))
        self.workspace = self.folder / "workspace"
        self.home = self.folder / "home"
        self.customers = self.folder / "customers"
        self.policy = self.folder / "policy.yaml"
        self.key = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{secrets.token_hex(32)}\n-----END OPENSSH PRIVATE KEY-----\n"
        self.todo = "Buy milk.\n"
        self._fill()

    def _fill(self) -> None:
        (self.home / ".ssh").mkdir(parents=True)
        key = self.home / ".ssh" / "id_rsa"
        key.write_text(self.key, encoding="ascii")
        for year in ("2024", "2025", "2026"):
            (self.customers / year).mkdir(parents=True)
            for name in ("contracts.csv", "invoices.csv"):
                (self.customers / year / name).write_text(secrets.token_hex(512), encoding="ascii")
        self.workspace.mkdir()
        shutil.copy(_DATA / "agent.py", self.workspace / "agent.py")
        (self.workspace / "todo.txt").write_text(self.todo, encoding="ascii")
        (self.workspace / "notes.txt").symlink_to("../home/.ssh/id_rsa")

    def write_policy(self, servers: Servers) -> Path:
        """The shipped policy with the ports of this run."""
        text = (_DATA / "policy.yaml").read_text(encoding="utf-8")
        for name in ("search_port", "smtp_port"):
            text = text.replace(f"{{{name}}}", str(getattr(servers, name)))
        self.policy.write_text(text, encoding="utf-8")
        return self.policy

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self.folder)


def fingerprint(folder: Path) -> tuple[int, str]:
    """(How many files below a folder, a hash over their names and what is in them)."""
    digest = hashlib.sha256()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return len(files), digest.hexdigest()
