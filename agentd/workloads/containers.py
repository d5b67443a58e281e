"""What the labels of a container are, by the word of the engine that made it.

Docker and Podman are asked over their sockets with the one call that both answer without waiting for a container that
is being started (Docker Engine API, GET /containers/json with a filter for the id). containerd keeps its own labels
where only gRPC reaches; what it hands to the runtime stands in files, as annotations (OCI runtime specification,
config.json), under /run/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID. What Docker runs by containerd has no
labels there, so its namespace `moby` is not believed about that.

Believed is what root serves or wrote. May block for SECONDS a read: for a thread of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

ENGINES: Final = tuple(
    Path(text)
    for text in ("/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/io.containerd.runtime.v2.task")
)
SECONDS: Final = 2.0  # for each read of an answer
WHOLE_SECONDS: Final = 4.0  # for all of it, however it trickles
MAX_ANSWER: Final = 4 << 20  # bytes
DOCKERS: Final = "moby"
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7)


@dataclass(frozen=True, slots=True)
class Answer:
    """labels: None if nobody has said them, and then `why` says of each engine what it answered; definite: every one
    that is there has answered; slow: one took longer than it was given.
    """

    labels: Mapping[str, str] | None
    why: tuple[str, ...] = ()
    definite: bool = True
    slow: bool = False


def labels_of(container: str, engines: Iterable[Path], believed: Callable[[int], bool]) -> Answer:
    """The labels of a container, by its id, from the first engine that knows it.

    engines: sockets, and folders as containerd's; believed: may the process with this pid be an engine?
    """
    why = []
    failed = slow = False
    for engine in engines:
        try:
            mode = os.stat(engine).st_mode
            found = (
                _asked(container, engine, believed) if stat.S_ISSOCK(mode)
                else _read(container, engine) if stat.S_ISDIR(mode)
                else None
            )  # fmt: skip
        except FileNotFoundError:
            continue
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as exc:
            why.append(f"{engine}: {getattr(exc, 'strerror', None) or str(exc) or type(exc).__name__}".lower())
            failed = True
            slow |= isinstance(exc, TimeoutError)
            continue
        if found is not None:
            return Answer(found)
        why.append(f"{engine}: knows no such container")
    return Answer(None, tuple(why) or ("no engine serves its socket",), definite=bool(why) and not failed, slow=slow)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, believed: Callable[[int], bool]) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path
        self._believed = believed

    def connect(self) -> None:
        """To whom the socket is served by: root, and no workload."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))
        credentials = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid or not self._believed(pid):
            raise ValueError("root does not serve it")

    def cut(self) -> None:
        """Ends what reads from it, from another thread."""
        with contextlib.suppress(OSError):
            if self.sock is not None:
                self.sock.shutdown(socket.SHUT_RDWR)


def _asked(container: str, engine: Path, believed: Callable[[int], bool]) -> Mapping[str, str] | None:
    connection = _Connection(engine, believed)
    end = threading.Timer(WHOLE_SECONDS, connection.cut)
    end.start()
    try:
        wanted = quote(json.dumps({"id": [container]}))
        connection.request("GET", f"/containers/json?all=true&filters={wanted}", headers={"Connection": "close"})
        response = connection.getresponse()
        data = response.read(MAX_ANSWER + 1)
        if response.status != 200 or len(data) > MAX_ANSWER:
            raise ValueError(f"status {response.status}, {len(data)} bytes")
        listed = json.loads(data)
        if not isinstance(listed, list):
            raise ValueError("not a list of containers")
        for one in listed:
            if isinstance(one, dict) and one.get("Id") == container:
                return _texts(one.get("Labels") or {})
        return None
    finally:
        end.cancel()
        end.join()
        connection.close()


def _read(container: str, folder: Path) -> Mapping[str, str] | None:
    for namespace in sorted(folder.iterdir()):
        if namespace.name == DOCKERS:
            continue
        try:
            fd = os.open(namespace / container / "config.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if status.st_uid or status.st_mode & 0o022 or not stat.S_ISREG(status.st_mode):
                raise ValueError("others than root may write what it says")
            data = file.read(MAX_ANSWER + 1)
        if len(data) > MAX_ANSWER:
            raise ValueError(f"over {MAX_ANSWER} bytes")
        said = json.loads(data)
        if not isinstance(said, dict):
            raise ValueError("not a mapping")
        return _texts(said.get("annotations") or {})
    return None


def _texts(said: Any) -> Mapping[str, str]:
    if not isinstance(said, dict):
        raise ValueError("labels that are no mapping")
    return {name: value for name, value in said.items() if isinstance(name, str) and isinstance(value, str)}
