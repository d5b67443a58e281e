"""Reading the labels of containers: from engines' sockets and containerd's folder, and what is not believed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.policy import recognise
from agentd.policy.patterns import Dialect, Glob, matches
from agentd.workloads import containers
from agentd.workloads.containers import Answer, labels_of
from tests.live.engines import Engine

ID, LABELS = "0123456789abcdef" * 4, {"com.example.agent": "bot"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine that knows ID."""
    with Engine(tmp_path / "engine.sock") as made:
        made.labels[ID] = LABELS
        yield made


def anybody(_pid: int) -> bool:
    """Every process may be an engine."""
    return True


@pytest.mark.root
def test_an_engine_is_asked_over_its_socket(engine: Engine, tmp_path: Path) -> None:
    """The first engine that knows the container answers; one that isn't there is none; all others say why not."""
    nothing = tmp_path / "nothing.sock"
    assert labels_of(ID, [nothing, engine.socket], anybody) == Answer(LABELS)
    unknown = labels_of(ID[:-1] + "0", [nothing, engine.socket], anybody)
    assert unknown.labels is None and unknown.definite and unknown.why == (f"{engine.socket}: knows no such container",)
    assert not labels_of(ID, [nothing], anybody).definite
    unbelieved = labels_of(ID, [engine.socket], lambda _: False)
    assert unbelieved.labels is None and "root does not serve it" in unbelieved.why[0] and not unbelieved.definite


@pytest.mark.root
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "not a list"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1,", "expecting value"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + b"[" * 99999, "recursion"),
        (b'HTTP/1.1 200 OK\r\n\r\n[{"Id": "%s", "Labels": 1}]' % ID.encode(), "no mapping"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (containers.MAX_ANSWER + 2), "bytes"),
        (b"SSH-2.0\r\n", "ssh-2.0"),
        (b"", "closed"),
        (None, "timed out"),
    ],
)
def test_a_wrong_answer_is_none(
    answer: bytes | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors, other documents, too much, or silence: the labels are not known, and it says why."""
    monkeypatch.setattr(containers, "SECONDS", 0.2 if answer is None else 10.0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                if answer is None:
                    peer.recv(65536)
                    asked.wait(60)
                else:
                    peer.recv(65536)
                    with contextlib.suppress(OSError):
                        peer.sendall(answer)

        asked = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        found = labels_of(ID, [tmp_path / "engine.sock"], anybody)
        asked.set()
        thread.join()
    assert found.labels is None and not found.definite and why in found.why[0].lower(), found
    assert found.slow == (answer is None), "who is slow is asked again for longer"


@pytest.mark.root
def test_an_answer_that_trickles_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slowly an engine goes on answering, it has so many seconds for all of it."""
    monkeypatch.setattr(containers, "WHOLE_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen()

        def trickle() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    peer.sendall(b" ")
                    time.sleep(0.01)

        thread = threading.Thread(target=trickle)
        thread.start()
        found = labels_of(ID, [tmp_path / "engine.sock"], anybody)
        thread.join()
    assert found.labels is None and not found.definite


@pytest.mark.root
def test_containerds_annotations_are_read_unless_others_may_write_them(tmp_path: Path) -> None:
    """What is in the bundle of a container; not in Docker's, which has no labels there, nor in a file of others."""

    def bundle(namespace: str, text: str) -> Path:
        folder = tmp_path / namespace / ID
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(text, encoding="utf-8")
        return folder / "config.json"

    bundle("moby", json.dumps({"annotations": LABELS}))
    assert labels_of(ID, [tmp_path], anybody).labels is None
    file = bundle("k8s.io", json.dumps({"annotations": LABELS | {"n": 1}}))
    assert labels_of(ID, [tmp_path], anybody) == Answer(LABELS)
    for uid, mode in ((12345, 0o644), (0, 0o666)):
        os.chown(file, uid, 0)
        file.chmod(mode)
        assert "others than root" in labels_of(ID, [tmp_path], anybody).why[0]
    file.unlink()
    file.symlink_to("/proc/self/environ")
    assert not labels_of(ID, [tmp_path], anybody).definite
    file.unlink()
    bundle("k8s.io", "[]")
    assert "not a mapping" in labels_of(ID, [tmp_path], anybody).why[0]
    bundle("k8s.io", "{}")
    assert labels_of(ID, [tmp_path], anybody) == Answer({})


@pytest.mark.parametrize(
    ("cgroup", "known"),
    [
        (f"/system.slice/docker-{ID}.scope", True),
        (f"/docker/{ID}", True),
        (f"/machine.slice/libpod-{ID}.scope/container", True),
        (f"/libpod_parent/libpod-{ID}", True),
        (f"/system.slice/web.service/libpod-payload-{ID}", True),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope/a/b", True),
        (f"/nerdctl-{ID}.scope", True),
        (f"/docker-{ID}.scope/docker-{'1' * 64}.scope", True),
        (f"/machine.slice/libpod-conmon-{ID}.scope", False),
        (f"/docker-{ID}0.scope", False),
        (f"/docker-{ID[:-1]}.scope", False),
        (f"/docker-{ID.upper()}.scope", False),
        (f"/x{ID}", False),
        ("/", False),
        ("/docker", False),
    ],
)
def test_the_kernel_and_user_space_agree_on_what_is_a_container(cgroup: str, known: bool) -> None:
    """The globs that the kernel's tables are made of match exactly the cgroups in which container() finds one."""
    found = recognise.container(cgroup.encode())
    assert (found is not None) == known
    if found is not None:
        assert found[0] == ID and ID in os.path.basename(found[1]) and f"{cgroup}/".startswith(f"{found[1]}/")
    globs = recognise.container_globs()
    assert any(matches(Glob(glob, Dialect.AGENTD), cgroup.encode()) for glob in globs) == known
