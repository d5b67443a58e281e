"""The service's configuration: /etc/agentd/agentd.yaml, read with the same positions and messages as a policy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from agentd.daemon import evidence
from agentd.daemon.evidence import Evidence
from agentd.daemon.sinks import Notifications, read_sinks
from agentd.engine.resolvers import parse_resolver
from agentd.errors import AgentdError
from agentd.kernel.hosts import Resolver
from agentd.kernel.prepare import SERVICE_PINS
from agentd.policy import source
from agentd.policy.problem import Problems
from agentd.policy.reader import Reader

DEFAULT_FILE: Final = Path("/etc/agentd/agentd.yaml")
KEYS: Final = (
    "policy",
    "workspace",
    "audit_dir",
    "socket",
    "metrics_address",
    "metrics_port",
    "arena_mib",
    "bpffs_dir",
    "on_stop",
    "resolvers",
    "audit",
    "notify",
    "pending_per_agent",
    "overlay",
)
NUMBERS: Final = {"metrics_port": (0, 65535), "arena_mib": (0, 256), "pending_per_agent": (1, 12_000)}


@dataclass(frozen=True, slots=True)
class Config:
    """What the service needs to know; the defaults are those of a service without a file.

    workspace: anchors relative paths of agents without one; metrics_port 0: no endpoint; arena_mib 0: what the policy
    wants, with room for a reload of the same size; bpffs_dir: where the programs are pinned; release_on_stop: a stop
    ends enforcement (else the pins keep it); resolvers: whose answers teach host names; None: those of
    /etc/resolv.conf; audit: how the log is signed and kept, and where else it goes (evidence.py); notify: who is told
    about approvals; pending_per_agent: operations of one agent that wait at most (more are denied).
    """

    policy: Path = Path("/etc/agentd/policies/policy.yaml")
    workspace: str = "/"
    audit_dir: Path = Path("/var/lib/agentd/audit")
    socket: Path = Path("/run/agentd/agentd.sock")
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9469
    arena_mib: int = 0
    bpffs_dir: Path = SERVICE_PINS
    release_on_stop: bool = False
    resolvers: tuple[Resolver, ...] | None = None
    audit: Evidence = field(default_factory=Evidence)
    notify: Notifications = ()
    pending_per_agent: int = 1000
    overlay: Path | None = None

    @property
    def overlay_file(self) -> Path:
        """Where rules go that people approve for good: beside the folder of the log unless the file says otherwise."""
        return self.overlay or self.audit_dir.parent / "overlay.yaml"


def read_config(path: Path | None) -> Config:
    """The configuration in `path`; None: the default file if it exists, else the defaults.

    Raises PolicyError with every mistake and its place.
    """
    if path is None:
        if not DEFAULT_FILE.exists():
            return Config()
        path = DEFAULT_FILE
    problems = Problems(str(path))
    node = source.parse(source.read_file(path), problems)
    if node is None:
        problems.raise_errors()
        return Config()
    found = Reader(node, "", problems).keys(KEYS) or {}
    values: dict[str, object] = {}
    for name, reader in found.items():
        value = _value(name, reader)
        if value is not None:
            values["release_on_stop" if name == "on_stop" else name] = value
    problems.raise_errors()
    return Config(**values)  # type: ignore[arg-type]  # each was read as its field's type


def _value(name: str, reader: Reader) -> object:
    if name == "on_stop":
        return reader.choice({"keep": False, "release": True})
    if name == "resolvers":
        return _resolvers(reader)
    if name == "audit":
        return evidence.read(reader)
    if name == "notify":
        return read_sinks(reader)
    if name in NUMBERS:
        value = reader.node.value if isinstance(reader.node, source.Scalar) else None
        least, most = NUMBERS[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            reader.expected(f"a number from {least} to {most}")
            return None
        if name == "arena_mib" and value & (value - 1):
            reader.error(f"{value} is not a power of two", "write 0 (automatic), 1, 2, 4, 8, 16, ...")
            return None
        return value
    text = reader.text()
    if text is None:
        return None
    if name != "metrics_address" and not text.startswith("/"):
        reader.error("not an absolute path", "start it with /")
        return None
    if name == "bpffs_dir" and (not text.startswith("/sys/fs/bpf/") or ".." in text):
        reader.error("not below the bpf file system", "write /sys/fs/bpf/NAME")
        return None
    kind = next(item.type for item in fields(Config) if item.name == name)
    return Path(text) if kind in ("Path", "Path | None") else text


def _resolvers(reader: Reader) -> tuple[Resolver, ...] | None:
    items = reader.items("write a list of ADDRESS or ADDRESS:PORT") or []
    if not items:
        reader.error("nobody is named", "name a resolver, or remove resolvers to use those of /etc/resolv.conf")
    found = []
    for item in items:
        text = item.text()
        try:
            found += [parse_resolver(text)] if text is not None else []
        except ValueError as error:
            item.error(str(error), "write for example 10.0.0.2 or 127.0.0.1:5353")
    return tuple(found) or None


def check_policy_exists(config: Config) -> None:
    """Raises AgentdError `config-invalid` when there is no policy file to start with."""
    if not config.policy.exists():
        raise AgentdError(
            "config-invalid",
            str(config.policy),
            "there is no policy",
            "copy a ready one there (see agentd policy --help), or name yours in agentd.yaml: policy: FILE",
        )
