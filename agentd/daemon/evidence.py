"""The part `audit:` of agentd.yaml: keys, files, and where records go besides the log.

audit:
  keys_dir: /var/lib/agentd/keys
  file_mib: 64                # a new file when this one has so many MiB
  file_hours: 24              # or is so old
  keep_days: 0                # closed files older than this are removed; 0: none is
  keep_mib: 0                 # the oldest are removed when all have more than this; 0: none is
  sinks:
    journald: {}              # socket: PATH
    syslog: {host: logs.example.com, port: 6514, ca: /etc/agentd/ca.pem}     # server_name, cert, key; tls: false
    otlp: {endpoint: "https://otel.example.com:4318/v1/logs"}                # ca; headers: {NAME: VALUE}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd.audit import keys
from agentd.audit.segments import DAY, Limits
from agentd.audit.sinks import NAMES
from agentd.policy import source
from agentd.policy.reader import Reader

KEYS: Final = ("keys_dir", "file_mib", "file_hours", "keep_days", "keep_mib", "sinks")
SINK_KEYS: Final = {
    "journald": ("socket",),
    "syslog": ("host", "port", "tls", "ca", "server_name", "cert", "key"),
    "otlp": ("endpoint", "ca", "headers"),
}
FILES: Final = frozenset({"socket", "ca", "cert", "key"})

Settings = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """How the log is kept. sinks: (name, arguments) of each."""

    keys_dir: Path = keys.FOLDER
    limits: Limits = field(default_factory=Limits)
    sinks: tuple[Settings, ...] = ()


def read(reader: Reader) -> Evidence | None:
    """What the mapping says; None after a mistake, which is in the problems then."""
    found = reader.keys(KEYS)
    if found is None:
        return None
    numbers = {name: _number(found[name], least, most) for name, least, most in BOUNDS if name in found}
    folder = _text(found["keys_dir"], file=True) if "keys_dir" in found else str(keys.FOLDER)
    sinks = _sinks(found["sinks"]) if "sinks" in found else ()
    if None in numbers.values() or folder is None or sinks is None:
        return None
    limits = Limits(
        file_bytes=(numbers.get("file_mib") or 64) << 20,
        file_seconds=(numbers.get("file_hours") or 24) * 3600,
        keep_bytes=(numbers.get("keep_mib") or 0) << 20,
        keep_seconds=(numbers.get("keep_days") or 0) * DAY,
    )
    return Evidence(Path(folder), limits, sinks)


BOUNDS: Final = (("file_mib", 1, 4096), ("file_hours", 1, 8760), ("keep_days", 0, 36_500), ("keep_mib", 0, 1 << 24))


def _sinks(reader: Reader) -> tuple[Settings, ...] | None:
    found = reader.keys(NAMES)
    if found is None:
        return None
    made = [(name, _sink(name, one)) for name, one in found.items()]
    return tuple((name, settings) for name, settings in made if settings is not None)


def _sink(name: str, reader: Reader) -> Mapping[str, Any] | None:
    found = reader.keys(SINK_KEYS[name])
    if found is None:
        return None
    made: dict[str, Any] = {}
    for key, one in found.items():
        read_one: Callable[[Reader], Any] = READERS.get(key, lambda item: _text(item, file=False))
        value = read_one(one)
        if value is not None:
            made["path" if key == "socket" else key] = value
    needed = {"syslog": ("host",), "otlp": ("endpoint",)}.get(name, ())
    for key in needed:
        if key not in found:
            reader.error(f"{key} is missing", f"write {key}: ...")
    if name == "syslog":
        made.setdefault("port", 6514)
        if made.get("tls") is False and {"ca", "server_name", "cert", "key"} & set(found):
            reader.error("tls is false, and there are keys about TLS", "remove tls: false, or those")
    if name == "otlp" and not str(made.get("endpoint", "https://")).startswith(("https://", "http://")):
        reader.error("the endpoint is not a URL", "write https://HOST:4318/v1/logs")
    return made


def _number(reader: Reader, least: int, most: int) -> int | None:
    value = reader.node.value if isinstance(reader.node, source.Scalar) else None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        reader.expected(f"a number from {least} to {most}")
        return None
    return value


def _text(reader: Reader, *, file: bool) -> str | None:
    text = reader.text()
    if text is not None and file and not text.startswith("/"):
        reader.error("not an absolute path", "start it with /")
        return None
    return text


def _flag(reader: Reader) -> bool | None:
    value = reader.node.value if isinstance(reader.node, source.Scalar) else None
    if isinstance(value, bool):
        return value
    reader.expected("true or false")
    return None


def _headers(reader: Reader) -> dict[str, str]:
    made = {}
    for name, one in reader.names("a header"):
        text = one.text()
        if text is not None:
            made[name] = text
    return made


READERS: Final[dict[str, Callable[[Reader], Any]]] = {
    "port": lambda reader: _number(reader, 1, 65535),
    "tls": _flag,
    "headers": _headers,
    **{name: (lambda reader: _text(reader, file=True)) for name in FILES},
}
