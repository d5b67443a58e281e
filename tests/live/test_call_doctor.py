"""`agentd doctor` about library calls: where a workload's are judged, and what of it can't be."""

from __future__ import annotations

import json
import os
import struct
import subprocess

import pytest

from agentd.cli import doctor
from agentd.workloads import modules
from tests.live import harness
from tests.live.probes import PYTHON
from tests.live.service import Service, until

pytestmark = pytest.mark.root

# What a program with OpenSSL inside shows of it: the name of a source of its own, for the messages of its errors.
OPENSSL = 'const char *volatile file = "ssl/ssl_lib.c";\n'
WAIT = '#include <unistd.h>\nint main(void) { write(1, "up", 2); for (;;) pause(); }\n'


def narrow_program() -> bytes:
    """A program of 32-bit code that says `up` and waits: write(1, "up", 2), then pause() for good, by int 0x80."""
    base, head = 0x08048000, 52 + 32
    code = bytes.fromhex("b804000000bb01000000b9") + (base + head + 31).to_bytes(4, "little")
    code += bytes.fromhex("ba02000000cd80b81d000000cd80ebf7") + b"up"
    size = head + len(code)
    ident = b"\x7fELF" + bytes((1, 1, 1)) + bytes(9)
    elf = struct.pack("<16s2H5I6H", ident, 2, 3, 1, base + head, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    return elf + struct.pack("<8I", 1, 0, base, base, size, size, 5, 4096) + code


def test_doctor_shows_what_is_judged_and_what_can_not_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Per workload: each function with its files, those that nobody has mapped, a static program without symbols."""
    allow = [{"tool": "sqlite", "operations": ["query"]}, {"tool": "tls", "operations": ["send"]}]
    with Service({"bot": harness.agent(allow=allow, on_violation="kill")}) as service:
        (service.folder / "a.c").write_text(WAIT)
        (service.folder / "b.c").write_text(OPENSSL + WAIT)
        blind, seen, inside = (service.folder / name for name in ("blind", "seen", "inside"))
        for made, options in ((blind, ["-static", "-s"]), (seen, ["-static"]), (inside, ["-static", "-s"])):
            source = service.folder / ("b.c" if made is inside else "a.c")
            subprocess.run(["gcc", *options, "-o", made, source], check=True)
        narrow = service.folder / "narrow"
        narrow.write_bytes(narrow_program())
        narrow.chmod(0o755)
        code = "import sqlite3, ssl, time; print('up', flush=True); time.sleep(1000)"
        commands = {"python": ("bot", PYTHON, "-c", code), "blind": ("bot", blind), "seen": ("bot", seen)}
        commands |= {"inside": ("bot", inside), "narrow": ("bot", narrow)}
        running = []
        for agent, *command in commands.values():
            started = service.spawn(*command, agent=agent, stdout=subprocess.PIPE)
            running.append(started)
            assert started.stdout is not None and started.stdout.read(2) == b"up"
        found = json.loads(service.cli("doctor", "--json").stdout)
        python, without, with_symbols, with_openssl, of_32_bits = found["calls"]
        judged = {one["call"]: one["files"] for one in python["calls"]}
        for library, function in (("ssl", "SSL_write"), ("sqlite3", "sqlite3_prepare_v2")):
            assert judged[f"{library}:{function}"] == [os.path.realpath(modules.installed(library)[0].path)]
        assert judged["gnutls:gnutls_record_send"] == [] and not python["unseen"]
        assert (python["agent"], python["processes"], python["looked"]) == ("bot", 1, 1)
        assert without["unseen"] == [{"file": str(blind), "has": modules.STATIC}]
        assert with_symbols["unseen"] == []
        assert with_openssl["unseen"] == [{"file": str(inside), "has": "OpenSSL without symbols"}]
        assert of_32_bits["unseen"] == [{"file": str(narrow), "has": modules.NARROW}]
        assert not any(one["files"] for workload in (without, with_symbols) for one in workload["calls"])
        assert [spot for spot in found["weak"] if str(blind) in spot["reason"]]
        doctor._print(found)
        text = capsys.readouterr().out
        assert f"NOT SEEN   {blind} has {modules.STATIC}" in text
        assert "library calls of workload" in text and "- (not mapped)" in text
        told = [record["reason"] for record in service.records("calls_unseen")]
        assert [[str(made) in reason for made in (blind, inside)].index(True) for reason in told] == [0, 1]
        service.end_workloads()
        for started in running:
            assert started.stdout is not None
            started.stdout.close()
            started.wait()
        until(lambda: not service.call("status")["workloads"], "the end of the workloads")
