"""What answers as an engine of containers does: the documented call of the Docker Engine API, over a unix socket. And
the engines themselves, where they are installed, each with a storage of its own and an image `tiny`: busybox, a file.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import secrets
import shutil
import socketserver
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlparse

from tests.live.service import until

# In a mount namespace whose /sys/fs/cgroup is the v2 hierarchy alone: crun refuses the hybrid one.
IN_V2 = ("unshare", "--mount", "/bin/sh", "-c",
         'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "$@"', "sh")  # fmt: skip
# As little as a host without CAP_SYS_RESOURCE and without v2 controllers can give.
LEAN = ("--privileged", "--pids-limit=-1", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4000:4000", "--network=none")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """GET /containers/json?all=true&filters={"id": [ID]}; one that is not in `answering` waits for it."""
        asked = urlparse(self.path)
        wanted = json.loads(parse_qs(asked.query)["filters"][0])["id"] if asked.path == "/containers/json" else []
        for one in wanted:
            self.server.engine.asked[one] += 1
        self.server.engine.answering.wait(60)
        known = self.server.engine.labels
        body = json.dumps([{"Id": one, "Labels": known[one]} for one in wanted if one in known]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def handle(self) -> None:
        """Who asked may be gone."""
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            pass


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = False  # closed with the server
    engine: Engine


class Engine:
    """Use as a context manager. labels: of each container, by its id; asked: how often about each."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.labels: dict[str, dict[str, str]] = {}
        self.asked: Counter[str] = Counter()
        self.answering = threading.Event()
        self.answering.set()

    def __enter__(self) -> Engine:
        self._server = _Server(str(self.socket), _Handler)
        self._server.engine = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.answering.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.socket.unlink()


@dataclass(frozen=True, slots=True)
class Real:
    """An engine that runs containers. command: before its verbs; lean: what `run` is given."""

    command: tuple[str, ...]
    folder: Path
    lean: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self.folder / "engine.sock"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One call of its command line."""
        return subprocess.run(
            [*self.command, *words], env={**os.environ, **self.environment}, cwd=self.folder, capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip

    def cat(self, *words: str) -> bool:
        """Does a container that is made with these options get to read its file?"""
        done = self.run("run", "--rm", *self.lean, *words, "tiny", "/bin/busybox", "cat", "/note")
        assert (done.returncode == 0) == (done.stdout == "secret"), done
        return done.returncode == 0


def _content(folder: Path) -> None:
    (folder / "tiny/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "tiny/bin/busybox")
    (folder / "tiny/note").write_text("secret", encoding="utf-8")
    subprocess.run(["tar", "-c", "-f", folder / "tiny.tar", "-C", folder / "tiny", "."], check=True)


@contextlib.contextmanager
def podman(folder: Path) -> Iterator[Real]:
    """Podman with its service."""
    assert shutil.which("podman"), "apt-get install podman"
    storage = folder / "storage.conf"
    places = f'runroot="{folder}/run"\ngraphroot="{folder}/graph"\n'
    storage.write_text(f'[storage]\ndriver="vfs"\n{places}', encoding="utf-8")
    environment = {"CONTAINERS_STORAGE_CONF": str(storage), "TMPDIR": str(folder)}
    made = Real((*IN_V2, "podman", "--cgroup-manager=cgroupfs"), folder, LEAN, environment)
    _content(folder)
    assert made.run("import", "tiny.tar", "tiny").returncode == 0
    serve = [*made.command, "system", "service", "--time=0", f"unix://{made.socket}"]
    with subprocess.Popen(serve, env={**os.environ, **environment}, stderr=subprocess.DEVNULL) as service:
        try:
            until(made.socket.exists, "the socket")
            yield made
        finally:
            made.run("rm", "-af", "-t", "0")
            service.terminate()
            service.wait(60)
            made.run("rmi", "-af")


@contextlib.contextmanager
def docker(folder: Path) -> Iterator[Real]:
    """dockerd with a containerd of its own."""
    assert shutil.which("dockerd") and shutil.which("containerd"), "apt-get install docker.io"
    made = Real(("docker", "-H", f"unix://{folder}/engine.sock"), folder, ("--network=none",))
    _content(folder)
    serve = [
        *IN_V2, "dockerd", f"--host=unix://{made.socket}", f"--data-root={folder}/data", f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid", "--storage-driver=vfs", "--bridge=none", "--iptables=false", "--ip6tables=false",
    ]  # fmt: skip
    with open(folder / "log", "wb") as log, subprocess.Popen(serve, stdout=log, stderr=log) as service:
        try:
            until(lambda: made.run("version").returncode == 0, "dockerd")
            assert made.run("import", "tiny.tar", "tiny").returncode == 0
            yield made
        finally:
            made.run("rm", "-f", "long")
            service.terminate()
            service.wait(60)


@dataclass(frozen=True, slots=True)
class Containerd:
    """The containerd of a `docker`: its containers are ctr's."""

    docker: Real

    @property
    def tasks(self) -> Path:
        """Where it keeps bundles."""
        return self.docker.folder / "exec/containerd/daemon/io.containerd.runtime.v2.task"

    def cat(self, annotations: Mapping[str, str], *options: str, name: str = "") -> bool:
        """Does a container with these annotations get to read its file? name: of its own; else 64 digits."""
        folder, id_ = self.docker.folder, name or secrets.token_hex(32)
        subprocess.run(["runc", "spec", "--bundle", folder], check=True, capture_output=True)
        spec = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").unlink()
        spec["process"] |= {"terminal": False, "args": ["/bin/busybox", "cat", "/note"]}
        spec["root"] = {"path": str(folder / "tiny")}
        spec["annotations"] = dict(annotations)
        del spec["linux"]["resources"]  # a hybrid host has no v2 controllers
        spec["linux"]["cgroupsPath"] = f"/default/{id_}"
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        address = folder / "exec/containerd/containerd.sock"
        done = subprocess.run(
            ["ctr", "--address", address, "run", "--rm", *options, "--config", folder / "spec.json", id_],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode == 0) == (done.stdout == "secret"), done
        return done.returncode == 0
