"""A denied rename, link or mount leaves something behind; nobody of the workload gets to use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import harness
from tests.live.harness import Host
from tests.live.probes import untagged

pytestmark = pytest.mark.root

SECRET = "not for you"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """An agent that may do everything but touch secrets."""
    deny = [
        {"tool": tool, "paths": ["/**/secret/**"]}
        for tool in ("file_reader", "file_writer", "file", "secrets", "persistence")
    ]
    agents = {"bot": harness.agent(deny=[*deny, {"tool": "host", "operations": ["mount"]}])}
    with harness.enforcing(tmp_path_factory.mktemp("aliases"), agents) as live:
        yield live


@pytest.mark.parametrize(
    "script",
    [
        "(mv secret/key plain); cat plain",
        "(ln secret/key plain); cat plain",
        "cat plain & (sleep 0.2; ln secret/key plain); sleep 0.5; cat plain",
        '(python3 -c \'import os; os.rename("secret/key", "plain")\'); while read line; do echo $line; done < plain',
    ],
)
def test_an_alias_of_a_denied_file_is_of_no_use(live: Host, tmp_path: Path, script: str) -> None:
    """The shell that would read the alias after its child was killed for making it is killed too."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text(SECRET)
    run = live.run(["/bin/sh", "-c", f"cd {tmp_path}; {script}"])
    assert SECRET.encode() not in run.out
    assert run.killed
    denied = [record for record in run.records if record["event"] == "denied"]
    assert denied and denied[0]["metadata"].get("whole_workload_ended") is True
    assert denied[0]["object"] == f"{tmp_path}/secret/key"


def test_the_same_script_outside_a_workload_reads_it(tmp_path: Path) -> None:
    """Positive control."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text(SECRET)
    run = untagged(["/bin/sh", "-c", f"cd {tmp_path}; (ln secret/key plain); cat plain"])
    assert SECRET.encode() in run.out


def test_a_denied_rename_of_what_may_be_read_ends_only_its_caller(live: Host, tmp_path: Path) -> None:
    """Where the alias tells nothing that could not be read anyway, the rest of the workload goes on."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "open").write_text("public")
    run = live.run(["/bin/sh", "-c", f"cd {tmp_path}; (mv open secret/open); echo lived"])
    assert b"lived" in run.out
