"""`agentd doctor`: asks the service, or carries an engine of its own for as long as the probes take."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from agentd.daemon import host
from agentd.daemon.client import SERVICE_SOCKET, Client
from agentd.daemon.places import run_pins
from agentd.engine import report
from agentd.engine.policies import compile_policy
from agentd.errors import AgentdError
from agentd.model import Point
from agentd.policy import resolve

POLICY: Final = b"version: 1\nagents:\n  doctor:\n    deny: []\n"  # for an engine that holds nobody but the canary


def examine(socket: Path | None) -> dict[str, Any]:
    """The report, with `by`: who made it. socket: of a service; None: the usual one, if there is any.

    Raises AgentdError with exit code 2: this host can't enforce.
    """
    try:
        if socket is not None or SERVICE_SOCKET.exists():
            with Client(socket or SERVICE_SOCKET) as client:
                return {"by": "the service", **client.call("doctor")}
        return {"by": "an engine of its own", **_alone()}
    except AgentdError as error:
        error.exit_code = report.CANNOT
        raise
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        hint = "give agentd the host's own /proc, /sys and /run"
        what = str(error.filename or "agentd doctor")
        raise AgentdError("kernel-unsupported", what, why, hint, exit_code=report.CANNOT) from error


def _alone() -> dict[str, Any]:
    compiled = compile_policy(resolve.load_text(POLICY, "doctor", workspace="/"))
    host.collect_stale_runs()
    with tempfile.TemporaryDirectory(prefix="agentd-doctor-") as folder:
        engine = host.start(compiled, pins=run_pins(), audit_dir=Path(folder))
        try:
            engine.verification.run()
            return report.of(engine.verification, Point(engine.loaded.control.point))
        finally:
            host.stop(engine, release=True)
