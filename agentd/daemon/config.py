"""The service's configuration: /etc/agentd/agentd.yaml, read with the same positions and messages as a policy.

Behind the file come `agentd.yaml.d/*.yaml` in the order of their names, and those of `agentd.yaml.d/ENVIRONMENT/`: a
later file's value stands, for each key of `audit:` and `console:` too. Files of an environment may not change what
another file says, nor set what could loosen, unless they say `loosens: true`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from agentd.daemon import evidence
from agentd.daemon.console import settings as console
from agentd.daemon.console.settings import ConsoleSettings
from agentd.daemon.environments import NESTED, check_environment
from agentd.daemon.evidence import Evidence
from agentd.daemon.sinks import Notifications, read_sinks
from agentd.engine.resolvers import parse_resolver
from agentd.errors import AgentdError
from agentd.kernel.hosts import Resolver
from agentd.kernel.prepare import SERVICE_PINS
from agentd.policy import source
from agentd.policy.layers import Document, JoinedProblems, Part, read_parts
from agentd.policy.reader import Reader
from agentd.policy.source import Mapping, Node, Scalar
from agentd.workloads.containers import ENGINES

DEFAULT_FILE: Final = Path("/etc/agentd/agentd.yaml")
KEYS: Final = (
    "environment",
    "policy",
    "workspace",
    "audit_dir",
    "socket",
    "metrics_address",
    "metrics_port",
    "program_times",
    "arena_mib",
    "bpffs_dir",
    "on_stop",
    "resolvers",
    "audit",
    "notify",
    "pending_per_agent",
    "overlay",
    "probe_seconds",
    "console",
    "container_engines",
)
NUMBERS: Final = {
    "metrics_port": (0, 65535),
    "arena_mib": (0, 256),
    "pending_per_agent": (1, 12_000),
    "probe_seconds": (0, 86_400),
}
LIVE: Final = frozenset({"environment", "policy", "workspace", "overlay", "pending_per_agent"})  # what a reload changes
_ENVIRONMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Config:
    """What the service needs to know; the defaults are those of a service without a file.

    policy: a file, or a folder whose *.yaml are one policy; environment: whose files come on top of both (empty: none);
    workspace: anchors relative paths of agents without one; metrics_port 0: no endpoint; program_times: measure how
    long each BPF program runs, which costs each run tens of nanoseconds; arena_mib 0: what the policy
    wants, with room for a reload of the same size; bpffs_dir: where the programs are pinned; release_on_stop: a stop
    ends enforcement (else the pins keep it); resolvers: whose answers teach host names; None: those of
    /etc/resolv.conf; audit: how the log is signed and kept, and where else it goes (evidence.py); notify: who is told
    about approvals; pending_per_agent: operations of one agent that wait at most (more are denied); probe_seconds:
    between two rounds of doctor's probes, of which the first is made at the start; 0: only `agentd doctor` makes them;
    console: the page for people; None: there is none; container_engines: who is asked for the labels of containers,
    sockets and folders as containerd's (workloads/containers.py); file: where it was read from; None: the default
    place; told: what `notify:` says, to see whether it changes.
    """

    environment: str = ""
    policy: Path = Path("/etc/agentd/policies")
    workspace: str = "/"
    audit_dir: Path = Path("/var/lib/agentd/audit")
    socket: Path = Path("/run/agentd/agentd.sock")
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9469
    program_times: bool = False
    arena_mib: int = 0
    bpffs_dir: Path = SERVICE_PINS
    release_on_stop: bool = False
    resolvers: tuple[Resolver, ...] | None = None
    audit: Evidence = field(default_factory=Evidence)
    notify: Notifications = ()
    pending_per_agent: int = 1000
    overlay: Path | None = None
    probe_seconds: int = 300
    console: ConsoleSettings | None = None
    container_engines: tuple[Path, ...] = ENGINES
    file: Path | None = None
    told: object = None

    @property
    def overlay_file(self) -> Path:
        """Where rules go that people approve for good: beside the folder of the log unless the file says otherwise."""
        return self.overlay or self.audit_dir.parent / "overlay.yaml"

    def changed(self, other: Config) -> list[str]:
        """The keys that differ and that no reload changes."""
        names = {"release_on_stop": "on_stop", "told": "notify"}
        kept = [item.name for item in fields(self) if item.name not in LIVE | {"notify", "file"}]
        return sorted(names.get(name, name) for name in kept if getattr(self, name) != getattr(other, name))


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as it is in force: `key` is `audit.keys_dir`, `origin` is `FILE:LINE:COLUMN` or empty (a default)."""

    key: str
    value: object
    origin: str


def read_config(path: Path | None, *, service: bool = False) -> Config:
    """The configuration in `path` and its drop-ins; None: the default file if it exists, else the defaults.

    service: it is to be run with (else systemd's credentials may be missing, which are there while the service runs).
    Raises PolicyError with every mistake and its place.
    """
    node, problems = _joined(path)
    if node is None:
        return Config(file=path)
    found = Reader(node, "", problems).keys(KEYS) or {}
    notify = node.get("notify")
    values: dict[str, object] = {"file": path, "told": source.plain(notify) if notify else None}
    for name, reader in found.items():
        value = read_sinks(reader, service=service) if name == "notify" else _value(name, reader)
        if value is not None:
            values["release_on_stop" if name == "on_stop" else name] = value
    problems.raise_errors()
    return Config(**values)  # type: ignore[arg-type]  # each was read as its field's type


def pins_of(path: Path | None) -> Path:
    """Where the programs are pinned: what `agentd release` must find out even where other keys are wrong.

    Raises PolicyError for files that can't be read or joined, and for a wrong `bpffs_dir`.
    """
    node, problems = _joined(path)
    written = node.get("bpffs_dir") if node else None
    value = _value("bpffs_dir", Reader(written, "bpffs_dir", problems)) if written else SERVICE_PINS
    problems.raise_errors()
    assert isinstance(value, Path)
    return value


def settings(path: Path | None) -> list[Setting]:
    """Every value in force, with where it comes from. Raises what read_config() raises."""
    read_config(path)
    node, problems = _joined(path)
    written: dict[str, Setting] = {}
    for key, value in node.entries if node else ():
        _flatten(key.text, value, problems, written)
    defaults = dict(_defaults())
    top = {key.split(".")[0] for key in written}
    found = [
        written.pop(key) if key in written else Setting(key, value, "")
        for key, value in defaults.items()
        if key in written or key.split(".")[0] not in top or "." in key
    ]
    return [*found, *written.values()]


def _flatten(key: str, node: Node, problems: JoinedProblems, into: dict[str, Setting]) -> None:
    if isinstance(node, Mapping) and node.entries:
        for name, value in node.entries:
            _flatten(f"{key}.{name.text}", value, problems, into)
        return
    hidden = key.startswith("audit.sinks.otlp.headers.")  # a token may stand there
    into[key] = Setting(key, "(hidden)" if hidden else source.plain(node), problems.where(node.line, node.column))


def _defaults() -> Sequence[tuple[str, object]]:
    made = Config()
    limits = made.audit.limits
    audit = {
        "keys_dir": str(made.audit.keys_dir),
        "file_mib": limits.file_bytes >> 20,
        "file_hours": limits.file_seconds // 3600,
        "keep_days": limits.keep_seconds,
        "keep_mib": limits.keep_bytes,
    }
    named = {"on_stop": "keep", "overlay": "overlay.yaml beside the folder of audit_dir", "notify": []}
    named |= {"container_engines": [str(path) for path in made.container_engines]}
    named |= {"resolvers": "those of /etc/resolv.conf", "console": "off"}
    found: list[tuple[str, object]] = []
    for key in KEYS:
        if key == "audit":
            found += [(f"audit.{name}", value) for name, value in audit.items()]
        else:
            value = named[key] if key in named else getattr(made, key)
            found.append((key, str(value) if isinstance(value, Path) else value))
    return found


# -- the files


def _joined(path: Path | None) -> tuple[Mapping | None, JoinedProblems]:
    """All files as one mapping, and where problems with it go. Raises PolicyError for files that can't be joined."""
    documents = _documents(path or DEFAULT_FILE, must_exist=path is not None)
    problems = JoinedProblems(str(path or DEFAULT_FILE), files=[one.file for one in documents])
    parts = read_parts(documents, problems, versioned=False)
    problems.raise_errors()
    environment = _environment(parts, problems)
    if environment:
        first = len(documents)
        documents += _folder(Path(f"{path or DEFAULT_FILE}.d") / environment, environment=True)
        problems.files = [one.file for one in documents]
        parts = read_parts(documents, problems, versioned=False)
        check_environment(parts, {one.file for one in documents[first:]}, problems)
    problems.raise_errors()
    return _join(parts), problems


def _documents(path: Path, *, must_exist: bool) -> list[Document]:
    # A link to nothing is a mistake, and not a host without a file.
    there = must_exist or path.exists() or path.is_symlink()
    found = [Document(source.read_file(path), str(path))] if there else []
    return found + _folder(Path(f"{path}.d"))


def _folder(folder: Path, *, environment: bool = False) -> list[Document]:
    files = source.yaml_files(folder)
    return [Document(source.read_file(file), str(file), environment=environment) for file in files]


def _environment(parts: Sequence[Part], problems: JoinedProblems) -> str:
    """Which environment the files name; the last one stands."""
    found = ""
    for part in parts:
        node = part.node.get("environment")
        if node is not None:
            reader = Reader(node, "environment", problems)
            found = _environment_name(reader) or found
    problems.raise_errors()
    return found


def _environment_name(reader: Reader) -> str | None:
    text = reader.text()
    if text is not None and not _ENVIRONMENT.fullmatch(text):
        reader.error("not the name of an environment", "use letters, digits, `_` and `-`")
        return None
    return text


def _join(parts: Sequence[Part]) -> Mapping | None:
    """The last value of each key."""
    found: dict[tuple[str, str], tuple[Scalar, Node]] = {}
    for part in parts:
        for key, value in part.node.entries:
            before = found.get((key.kind, key.text))
            if before is not None and key.text in NESTED:
                value = _over(before[1], value)
            found[key.kind, key.text] = (key, value)
    return dataclasses.replace(parts[0].node, entries=tuple(found.values())) if parts else None


def _over(first: Node, second: Node) -> Node:
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return second
    entries = {(key.kind, key.text): (key, value) for key, value in (*first.entries, *second.entries)}
    return dataclasses.replace(second, entries=tuple(entries.values()))


# -- the values


def _value(name: str, reader: Reader) -> object:
    if name == "environment":
        return _environment_name(reader)
    if name == "on_stop":
        return reader.choice({"keep": False, "release": True})
    if name == "program_times":
        return _flag(reader)
    if name == "resolvers":
        return _resolvers(reader)
    if name == "audit":
        return evidence.read(reader)
    if name == "console":
        return console.read(reader)
    if name == "container_engines":
        return _places(reader)
    if name in NUMBERS:
        return _number(name, reader)
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


def _places(reader: Reader) -> tuple[Path, ...] | None:
    items = reader.items("write a list of sockets and folders")
    texts = [(item, item.text()) for item in items or ()]
    for item, text in texts:
        if text is not None and not text.startswith("/"):
            item.error("not an absolute path", "start it with /")
    return None if items is None else tuple(Path(text) for _, text in texts if text is not None)


def _number(name: str, reader: Reader) -> int | None:
    value = reader.node.value if isinstance(reader.node, Scalar) else None
    least, most = NUMBERS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        reader.expected(f"a number from {least} to {most}")
        return None
    if name == "arena_mib" and value & (value - 1):
        reader.error(f"{value} is not a power of two", "write 0 (automatic), 1, 2, 4, 8, 16, ...")
        return None
    return value


def _flag(reader: Reader) -> bool | None:
    if isinstance(reader.node, Scalar) and isinstance(reader.node.value, bool):
        return reader.node.value
    reader.expected("true or false")
    return None


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
    """Raises AgentdError `config-invalid` when there is no policy to start with, PolicyError for a folder's names."""
    path = config.policy
    if not (source.yaml_files(path) if path.is_dir() else path.exists()):
        raise AgentdError(
            "config-invalid",
            str(path),
            "there is no policy",
            "copy a ready one there (see agentd policy --help), or name yours in agentd.yaml: policy: FILE",
        )
