"""`agentd doctor` about library calls: where a workload's are judged, and what of it can't be."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from agentd.cli import doctor
from agentd.workloads import modules
from tests.live import harness
from tests.live.probes import PYTHON
from tests.live.service import Service, until

pytestmark = pytest.mark.root

WAIT = '#include <unistd.h>\nint main(void) { write(1, "up", 2); for (;;) pause(); }\n'


def test_doctor_shows_what_is_judged_and_what_can_not_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Per workload: each function with its files, those that nobody has mapped, a static program without symbols."""
    allow = [{"tool": "sqlite", "operations": ["query"]}, {"tool": "tls", "operations": ["send"]}]
    with Service({"bot": harness.agent(allow=allow, on_violation="kill")}) as service:
        (service.folder / "a.c").write_text(WAIT)
        blind, seen = service.folder / "blind", service.folder / "seen"
        for made, options in ((blind, ["-static", "-s"]), (seen, ["-static"])):
            subprocess.run(["gcc", *options, "-o", made, service.folder / "a.c"], check=True)
        code = "import sqlite3, ssl, time; print('up', flush=True); time.sleep(1000)"
        commands = {"python": ("bot", PYTHON, "-c", code), "blind": ("bot", blind), "seen": ("bot", seen)}
        running = []
        for agent, *command in commands.values():
            started = service.spawn(*command, agent=agent, stdout=subprocess.PIPE)
            running.append(started)
            assert started.stdout is not None and started.stdout.read(2) == b"up"
        found = json.loads(service.cli("doctor", "--json").stdout)
        python, without, with_symbols = found["calls"]
        judged = {one["call"]: one["files"] for one in python["calls"]}
        for library, function in (("ssl", "SSL_write"), ("sqlite3", "sqlite3_prepare_v2")):
            assert judged[f"{library}:{function}"] == [os.path.realpath(modules.installed(library)[0].path)]
        assert judged["gnutls:gnutls_record_send"] == [] and not python["unseen"]
        assert (python["agent"], python["processes"], python["looked"]) == ("bot", 1, 1)
        assert without["unseen"] == [{"file": str(blind), "has": modules.STATIC}]
        assert with_symbols["unseen"] == []
        assert not any(one["files"] for workload in (without, with_symbols) for one in workload["calls"])
        assert [spot for spot in found["weak"] if str(blind) in spot["reason"]]
        doctor._print(found)
        text = capsys.readouterr().out
        assert f"NOT SEEN   {blind} has {modules.STATIC}" in text
        assert "library calls of workload" in text and "- (not mapped)" in text
        (told,) = service.records("calls_unseen")
        assert str(blind) in told["reason"]
        service.end_workloads()
        for started in running:
            assert started.stdout is not None
            started.stdout.close()
            started.wait()
        until(lambda: not service.call("status")["workloads"], "the end of the workloads")
