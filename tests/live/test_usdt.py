"""USDT probes as tools: places that a program's authors have named, in unmodified programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.live import harness, probes
from tests.live.probes import untagged
from tests.live.test_call_compiler import killing

pytestmark = pytest.mark.root

IMPORT = "say('attempt')\nsay('ok ' + __import__(sys.argv[1]).__name__)\n"

# Tells the probe `order` its text and length, if somebody listens. PLACE: how the compiler is made to keep them.
TILL = """
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
#include <stdio.h>
#include <string.h>
unsigned short shop_order_semaphore __attribute__((section(".probes"), used));
char *words;
int main(int argc, char **argv)
{
	PLACE char *text = words = argv[1];
	PLACE int length = argc > 2 ? -1 : (int)strlen(argv[1]);
	puts(shop_order_semaphore ? "watched" : "alone");
	fflush(stdout);
	if (shop_order_semaphore)
		STAP_PROBE2(shop, order, TOLD, length);
	printf("ok %s\\n", text);
	return 0;
}
"""


def tool(call: dict[str, Any], text: str) -> dict[str, Any]:
    """Two operations: `forbidden`, whose text has the pattern, and behind it (the harness sorts) `other`."""
    return {"forbidden": [{"call": call, "text": [text]}], "other": [{"call": call}]}


def till(folder: Path, name: str, *options: str, told: str = "text") -> Path:
    made = folder / name
    (folder / "till.c").write_text(TILL)
    subprocess.run(["gcc", f"-DTOLD={told}", *options, "-o", made, folder / "till.c"], check=True)
    return made


def test_an_import_of_python_is_judged_by_its_name(tmp_path: Path) -> None:
    """Debian's python3 tells which module it looks for: one is refused, others are imported and counted."""
    call = {"library": "python3", "usdt": "python:import__find__load__start", "argument": 1, "as": "string"}
    agent = harness.agent(allow=[{"tool": "python", "operations": ["other"]}], on_violation="kill")
    tools = {"python": tool(call, "^ftplib$")}
    with harness.enforcing(tmp_path, {"bot": agent, "free": harness.agent()}, tools) as host:
        assert host.run(probes.python(IMPORT, "poplib")).value == "poplib"
        run = host.run(probes.python(IMPORT, "ftplib"))
        assert run.killed and run.lines == ["attempt"], run
        (denial,) = run.denials
        assert denial["object"] == "python3:python:import__find__load__start"
        assert (denial["tool_name"], denial["operation"], denial["point"]) == ("python", "forbidden", "uprobe")
        assert denial["metadata"]["text"]["excerpt"] == "ftplib"
        assert [r for r in host.counted("bot") if r["tool_name"] == "python" and r["operation"] == "other"]
        assert host.run(probes.python(IMPORT, "ftplib"), "free").value == "ftplib"
    assert untagged(probes.python(IMPORT, "ftplib")).value == "ftplib"


def test_a_program_is_told_that_somebody_listens(tmp_path: Path) -> None:
    """Its counter is raised, wherever the compiler has left the arguments, in files that nobody knew before; what can't
    be found, and a compiler that is killed meanwhile, end the program before its probe.
    """
    call = {"library": "till", "usdt": "shop:order", "argument": 1, "as": "bytes", "length": 2}
    agent = harness.agent(allow=[{"tool": "shop", "operations": ["other"]}], on_violation="kill")
    registers, memory = till(tmp_path, "registers", "-O2", "-DPLACE="), till(tmp_path, "memory", "-DPLACE=volatile")
    more = till(tmp_path, "more", "-DPLACE=volatile", "-fomit-frame-pointer")
    lost = till(tmp_path, "lost", "-O2", "-DPLACE=", told="words")
    with harness.enforcing(tmp_path, {"bot": agent}, {"shop": tool(call, "bribe")}) as host:
        for program in (registers, memory):
            assert host.run([program, "an order"]).lines == ["watched", "ok an order"]
            run = host.run([program, "a bribe"])
            assert run.killed and run.lines == ["watched"], run
            assert [denial["object"] for denial in run.denials] == ["till:shop:order"]
            assert host.run([program, "a bribe", "of length -1"]).value == "a bribe"
        assert {tuple(seen.functions) for seen in host.engine.calls.files()} == {("shop:order",)}
        with killing(os.getpid(), "begun") as killed:
            run = host.run([more, "an order"])
        assert run.killed and killed and run.lines == [], run
        assert host.run([more, "an order"]).value == "an order"
        run = host.run([lost, "an order"])
        assert run.killed and run.lines == [], run
        said = [record["reason"] for record in host.records() if record["event"] == "enforcement_failed"]
        assert ["ended by SIGKILL" in said[0], "lies where no program can look" in said[1]] == [True, True], said
    alone = ["alone", "ok a bribe"]
    for program in (registers, memory, more, lost):  # the kernel takes a link that was unpinned away a moment later
        harness.wait_for(lambda program=program: untagged([program, "a bribe"]).lines == alone, "its end")  # type: ignore[misc]
