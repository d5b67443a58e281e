"""The service's log as evidence: signed while it runs, sent on, its key replaced under it, and a disk that is full."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.audit import keys, verify
from tests.live.service import PYTHON, Service, agentd, bot, until

pytestmark = pytest.mark.root


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """What receives datagrams in the journal's place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "journal"))
        made.setblocking(False)
        yield made


def drained(journal: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(journal.recv(1 << 20))
        except BlockingIOError:
            return found


def test_evidence_of_a_running_service(tmp_path: Path, journal: socket.socket) -> None:
    """A denial is signed and sent within seconds, the key changes under the running service, and with the first key
    pinned all of it verifies in the end, and as a bundle.
    """
    folder = tmp_path / "keys"
    sinks = {"journald": {"socket": str(tmp_path / "journal")}, "syslog": {"host": "127.0.0.1", "port": 1}}
    with Service({"bot": bot()}, audit={"keys_dir": str(folder), "sinks": sinks}) as service:
        assert service.run("sh", "-c", "rm /none; exit 3").returncode != 0
        got: list[bytes] = []

        def denial() -> bool:
            got.extend(drained(journal))
            return any(b"AGENTD_AGENT=bot\n" in data and b"AGENTD_EVENT=denied\n" in data for data in got)

        until(denial, "the denial in the journal")
        until(lambda: service.records("signed"), "a signature")
        receipts = service.records("signed")[0]["metadata"]["receipts"]
        assert [r["record"] for r in receipts] == [r["seq"] for r in service.records("denied")]
        status = service.call("status")["audit"]
        assert status["signing"]["failed"] == ""
        assert status["sinks"]["journald"]["sent"] > 3
        until(lambda: service.call("status")["audit"]["sinks"]["syslog"]["failed"], "a dead sink that is told")
        shown = service.cli("status").stdout
        assert "signed by key" in shown and "FAILING" in shown
        first = keys.load(folder).public
        assert agentd("audit", "rotate-key", "--keys-dir", folder).returncode == 0
        until(lambda: service.records("key_rotated"), "the new key")
        assert service.run("sh", "-c", "rm /none; exit 3").returncode != 0
        assert service.end() == 0
        pin = tmp_path / "first.pub"
        pin.write_text(first.pem, encoding="ascii")
        done = agentd("audit", "verify", "--strict", "--key", pin, service.audit)
        assert done.returncode == 0, done
        assert "signed by " + first.kid[:16] in done.stdout
        bundle = tmp_path / "bundle.json"
        made = agentd("audit", "export", service.audit, "--format", "aevf", "-o", bundle, "--keys-dir", folder)
        assert made.returncode == 0, made
        assert agentd("audit", "verify", bundle, "--key", pin).returncode == 0
        published = [sys.executable, "-m", "aegis_verify", "--bundle", bundle]
        assert subprocess.run(published, capture_output=True, check=False).returncode == 0


def test_killed_before_it_could_sign(tmp_path: Path) -> None:
    """After kill -9 the log verifies with the key, and the next service signs what was left."""
    folder = tmp_path / "keys"
    with Service({"bot": bot()}, audit={"keys_dir": str(folder)}) as service:
        until(lambda: service.records("signed"), "a signature")
        assert service.run("sh", "-c", "rm /none; exit 3").returncode != 0
        until(lambda: service.records("denied"), "the denial")
        service.crash()
        pin = keys.load(folder).public
        left = verify.verify(service.audit / "audit.jsonl", pins=[pin])
        assert left.bad is None
        service.start()
        assert service.end() == 0
        result = verify.verify(service.audit / "audit.jsonl", pins=[pin], strict=True)
        assert (result.bad, result.unsigned) == (None, 0)
        signed = [item["record"] for r in service.records("signed") for item in r["metadata"]["receipts"]]
        assert {r["seq"] for r in service.records("denied")} <= set(signed)


def test_a_full_disk_and_a_signed_log(tmp_path: Path) -> None:
    """With the log's disk full the service goes on; when there is room again all is written, signed, and verifies."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "agentd-test", disk], check=True)
    try:
        audit = {"keys_dir": str(tmp_path / "keys"), "file_mib": 1}
        with Service({"bot": bot()}, audit=audit, audit_dir=str(disk / "log")) as service:
            service.audit = disk / "log"
            ballast = disk / "ballast"
            with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            for _ in range(3):
                assert service.run("sh", "-c", "rm /none; exit 3").returncode != 0
            until(lambda: service.call("status")["audit"]["failed"], "a failure that is told")
            assert "ENOSPC" in service.call("status")["audit"]["failed"]
            ballast.unlink()
            until(lambda: not service.call("status")["audit"]["failed"], "recovery")
            assert service.run(PYTHON, "-c", "pass").returncode == 0
            assert service.end() == 0
            pins = [keys.load(tmp_path / "keys").public]
            result = verify.verify(service.audit / "audit.jsonl", pins=pins, strict=True)
            assert (result.bad, result.unsigned) == (None, 0)
            assert len(service.records("denied")) >= 3
    finally:
        subprocess.run(["umount", disk], check=True)
