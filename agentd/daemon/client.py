"""The other side of server.py: what the command line uses to ask a running agentd."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from agentd.errors import CODES, AgentdError

SERVICE_SOCKET: Final = Path("/run/agentd/agentd.sock")
RUN_SOCKETS: Final = "run-*.sock"
TIMEOUT_SECONDS: Final = 60


def find_socket(chosen: Path | None = None) -> Path:
    """The socket to ask: the chosen one, the service's, or that of the only `agentd run` there is.

    Raises AgentdError `service-unreachable`.
    """
    if chosen is not None:
        return chosen
    if SERVICE_SOCKET.exists():
        return SERVICE_SOCKET
    runs = sorted(SERVICE_SOCKET.parent.glob(RUN_SOCKETS)) if SERVICE_SOCKET.parent.is_dir() else []
    live = [path for path in runs if _answers(path)]
    if len(live) == 1:
        return live[0]
    if live:
        names = ", ".join(map(str, live))
        raise AgentdError("service-unreachable", "agentd", f"several are running: {names}", "choose one with --socket")
    raise AgentdError(
        "service-unreachable", str(SERVICE_SOCKET), "no agentd is running", "systemctl start agentd, or agentd run"
    )


def _answers(path: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.connect(str(path))
        return True
    except OSError:
        return False
    finally:
        probe.close()


class Client:
    """One connection."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_SECONDS)
        try:
            self._socket.connect(str(path))
        except OSError as exc:
            self._socket.close()
            hint = "be root or join the group agentd" if isinstance(exc, PermissionError) else "is agentd running?"
            raise AgentdError("service-unreachable", str(path), (exc.strerror or str(exc)).lower(), hint) from exc
        self._file = self._socket.makefile("rb")

    def call(self, method: str, **params: Any) -> Any:
        """The result. Raises AgentdError as the other side did."""
        try:
            with contextlib.suppress(BrokenPipeError):  # a refusal may have come before the question
                self._socket.sendall(json.dumps({"method": method, "params": params}).encode() + b"\n")
            line = self._file.readline()
        except OSError as exc:
            line = b""
            if isinstance(exc, TimeoutError):
                raise AgentdError(
                    "service-unreachable", "agentd", "no answer in time", "see journalctl -u agentd"
                ) from exc
        if not line:
            raise AgentdError("service-unreachable", "agentd", "the connection was closed", "see journalctl -u agentd")
        answer = json.loads(line)
        if answer["ok"]:
            return answer["result"]
        error = answer["error"]
        code = error["code"] if error["code"] in CODES else "service-refused"
        raise AgentdError(code, error["what"], error["why"], error["hint"])

    def pidfd(self) -> int:
        """Of the process on the other side, which the caller owns. Raises OSError."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return os.pidfd_open(struct.unpack("3i", credentials)[0])

    def close(self) -> None:
        """Ends the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
