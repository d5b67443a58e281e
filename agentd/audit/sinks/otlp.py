"""OpenTelemetry logs over OTLP/HTTP, with the official SDK (the extra `otlp`).

The SDK's exporter is used, and not its queue: that one drops records without a word. What the exporter doesn't get
accepted comes again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import requests
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from agentd.audit import many
from agentd.audit.sinks.base import ERROR, NOTICE, WARNING, Item, message, plain, severity

PATIENCE: Final = 5  # seconds for one request
RECORD_MAX: Final = 65_536  # characters of the whole record that go along
SEVERITIES: Final = {ERROR: SeverityNumber.ERROR, WARNING: SeverityNumber.WARN, NOTICE: SeverityNumber.INFO2}
MEMBERS: Final = (
    *("seq", "hash", "agent_id", "tool_name", "operation", "decision", "rule", "action", "guarantee", "point"),
    *("kernel_operation", "object", "reason", "action_id", "risk_level", "count", "policy_sha256", "boot_id"),
)


class Otlp:
    """endpoint: the whole URL, ending in /v1/logs; ca: what its certificate is checked with; headers: of requests."""

    def __init__(self, endpoint: str, *, ca: str = "", headers: Mapping[str, str] | None = None) -> None:
        quiet = logging.getLogger("opentelemetry")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False  # its failures are counted and shown here
        self._endpoint = endpoint
        self._ca = ca
        self._headers = dict(headers or {})
        self._exporter: OTLPLogExporter | None = None

    def send(self, items: Sequence[Item]) -> None:
        if self._exporter is None:
            session = requests.Session()
            session.trust_env = not self._ca  # REQUESTS_CA_BUNDLE would go before the authority that is configured
            self._exporter = OTLPLogExporter(
                self._endpoint, certificate_file=self._ca or None, headers=self._headers, timeout=PATIENCE,
                session=session,
            )  # fmt: skip
        if self._exporter.export([_readable(item) for item in items]) is not LogRecordExportResult.SUCCESS:
            raise ConnectionError(f"{self._endpoint} has not accepted the records")

    def close(self) -> None:
        if self._exporter is not None:
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
            self._exporter = None


def _readable(item: Item) -> ReadableLogRecord:
    record = item.record
    found: dict[str, Any] = {}
    for name in MEMBERS:
        value = record.get(name)
        if value is not None:
            found[f"agentd.{name}"] = value if isinstance(value, int) else plain(value)
    if record.get("objects") is not None:
        found["agentd.objects"] = [plain(one) for one in many.objects(record)]
    process = record.get("process")
    if isinstance(process, dict):
        # Names of the semantic conventions where they exist.
        for member, name in (("pid", "process.pid"), ("exe", "process.executable.path"), ("uid", "process.user.id")):
            if process.get(member) is not None:
                found[name] = process[member] if isinstance(process[member], int) else plain(process[member])
        found["process.command_args"] = [plain(argument) for argument in process.get("argv") or ()][:64]
    found["agentd.record"] = item.line.decode("utf-8", "replace").rstrip("\n")[:RECORD_MAX]
    when = datetime.fromisoformat(record["timestamp"].replace("Z", "+00:00"))
    level = severity(record["event"])
    number = SEVERITIES.get(level, SeverityNumber.INFO)
    return ReadableLogRecord(
        LogRecord(
            timestamp=int(when.timestamp()) * 1_000_000_000 + when.microsecond * 1000,
            observed_timestamp=time.time_ns(),
            severity_text=number.name,
            severity_number=number,
            body=message(record),
            attributes=found,
            event_name=f"agentd.{record['event']}",
        ),
        Resource({"service.name": "agentd", "host.name": str(record.get("host") or "")}),
        InstrumentationScope("agentd.audit"),
    )
