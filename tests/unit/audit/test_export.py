"""`agentd audit export`, `key` and `rotate-key`, and what `verify` says about a bundle, from the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from aegis_verify.verifier import verify_bundle  # type: ignore[import-untyped]
from click.testing import CliRunner, Result

from agentd.audit import export, keys
from agentd.audit.segments import Limits
from agentd.cli.audit import audit
from agentd.errors import AgentdError
from tests.unit.audit.samples import START, allowed, denied, opened
from tests.unit.audit.signed import LogSigner


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(arg) for arg in args])


def good(*args: object) -> str:
    """The output of a call that succeeds."""
    result = run(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed log of two files."""
    folder = tmp_path_factory.mktemp("export")
    writer = opened(folder / "log/audit.jsonl", clock=lambda: START, limits=Limits(file_bytes=20_000))
    LogSigner(writer, folder / "keys", interval=0)
    for number in range(30):
        writer.append([denied(number) if number % 3 else allowed(number)])
    writer.append([denied(99, agent_id="other", tool_name="=cmd|' /C calc'!A1", reason="\x1b[2J")])
    writer.close()
    return folder


def test_lines_come_as_they_stand(home: Path) -> None:
    """jsonl gives the log's own lines, of all its files, so each can still be checked by its hash."""
    text = good("export", home / "log")
    files = [*sorted((home / "log").glob("audit-*.jsonl")), home / "log/audit.jsonl"]
    assert len(files) > 1
    assert text == "".join(file.read_text(encoding="utf-8") for file in files)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (["--agent", "other"], 1),
        (["--decision", "deny"], 21),
        (["--tool", "shell", "--agent", "research_bot"], 20),
        (["--since", "2027-01-01"], 0),
        (["--until", "2026-11-21", "--decision", "deny"], 21),
        (["--since", "2026-11-21", "--until", "2026-11-20T23:59:59Z"], 0),
    ],
)
def test_filters(home: Path, wanted: list[str], count: int) -> None:
    """Agent, decision, tool and time choose records; a date alone is the whole day."""
    assert len(good("export", home / "log", *wanted).splitlines()) == count


def test_a_table_is_harmless(home: Path) -> None:
    """CSV has one row a record, raw bytes as escapes, and nothing that a spreadsheet takes for a formula."""
    rows = list(csv.DictReader(io.StringIO(good("export", home / "log", "--format", "csv", "--agent", "other"))))
    assert len(rows) == 1
    assert rows[0]["tool_name"].startswith("'=")
    assert rows[0]["reason"] == "\\x1b[2J"
    assert rows[0]["pid"] == "4342"
    assert "\\xff" in rows[0]["argv"]
    assert set(rows[0]) == set(export.COLUMNS)


def test_a_bundle_from_end_to_end(home: Path, tmp_path: Path) -> None:
    """Exported, passed by the published verifier, passed here with the key, refused with another or without one."""
    path = tmp_path / "bundle.json"
    good("export", home / "log", "--format", "aevf", "-o", path, "--keys-dir", home / "keys", "--retention-days", 400)
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify_bundle(json.loads(path.read_text(encoding="utf-8"))).passed
    text = good("verify", path, "--key", home / "keys/signing.pub")
    assert "ok" in text and "NOT checked: that the log holds just that" in text
    assert json.loads(good("verify", path, "--key", home / "keys/signing.pub", "--json"))["ok"] is True
    keys.load(tmp_path / "other")
    refused = run("verify", path, "--key", tmp_path / "other/signing.pub")
    assert refused.exit_code == 1
    assert "first bad place: signed by key" in refused.stdout
    without = run("verify", path)
    assert isinstance(without.exception, AgentdError)
    assert without.exception.exit_code == 2


def test_a_filtered_bundle_says_so(home: Path, tmp_path: Path) -> None:
    """verify tells what was selected."""
    path = tmp_path / "bundle.json"
    good("export", home / "log", "--format", "aevf", "-o", path, "--keys-dir", home / "keys", "--agent", "other")
    assert "selected: agent other" in good("verify", path, "--key", home / "keys/signing.pub")


def test_a_changed_log_is_not_exported_as_evidence(home: Path, tmp_path: Path) -> None:
    """The host's key isn't put under what doesn't verify, nor under another host's log."""
    log = tmp_path / "log"
    log.mkdir()
    for file in (home / "log").iterdir():
        (log / file.name).write_bytes(file.read_bytes().replace(b"research_bot", b"research_bat", 1))
    for path, folder in ((log, home / "keys"), (home / "log", tmp_path / "keys")):
        result = run("export", path, "--format", "aevf", "--keys-dir", folder)
        assert isinstance(result.exception, AgentdError)
        assert result.exception.code == "audit-corrupt"


def test_damaged_lines_are_no_traceback(tmp_path: Path) -> None:
    """Records without members come out as far as they go; a line that is no record is an error in a sentence."""
    path = tmp_path / "audit.jsonl"
    path.write_text('{"seq": 1, "event": "denied", "process": [], "argv": 3}\n', encoding="utf-8")
    assert len(good("export", path, "--format", "csv").splitlines()) == 2
    assert good("export", path, "--agent", "bot", "--since", "2026-01-01") == ""
    for line in (b"\xff\n", b"[]\n", b"x\n"):
        path.write_bytes(line)
        result = run("export", path)
        assert isinstance(result.exception, AgentdError)
        assert result.exception.code == "audit-corrupt"


def test_a_mistake_is_one_sentence(home: Path) -> None:
    """A time that is none, an empty selection and a place that can't be written are said in a sentence."""
    assert "write 2026-11-25" in run("export", home / "log", "--since", "yesterday").output
    for wrong in (["--agent", "nobody"], ["-o", "/none/bundle.json"]):
        result = run("export", home / "log", "--format", "aevf", "--keys-dir", home / "keys", *wrong)
        assert isinstance(result.exception, AgentdError)
        assert result.exception.exit_code == 2


def test_keys_are_shown_and_replaced(tmp_path: Path) -> None:
    """`key` prints the PEM, `rotate-key` replaces the key, and both have JSON."""
    folder = tmp_path / "keys"
    pem = good("key", "--keys-dir", folder)
    assert pem == (folder / "signing.pub").read_text(encoding="ascii")
    assert "new key" in good("rotate-key", "--keys-dir", folder)
    said = json.loads(good("rotate-key", "--keys-dir", folder, "--json"))
    assert said["new"] == json.loads(good("key", "--keys-dir", folder, "--json"))["key"]
    assert len(keys.rotations(folder)) == 2


def test_show_and_tail_go_back_into_closed_files(home: Path) -> None:
    """A record of an older file is shown by its number, and tail goes on where the newest file begins."""
    assert "action-1\n" in good("show", 2, home / "log")
    assert len(good("tail", "-n", 32, home / "log").splitlines()) == 32


def test_an_older_bundle_stays_when_there_is_nothing_to_write(home: Path, tmp_path: Path) -> None:
    """An export that fails before its first record leaves the file that was there."""
    path = tmp_path / "november.json"
    path.write_text("the one before", encoding="utf-8")
    arguments = ("export", home / "log", "--format", "aevf", "--keys-dir", home / "keys", "-o", path)
    result = run(*arguments, "--since", "2027-01-01")
    assert isinstance(result.exception, AgentdError) and "no record matches" in str(result.exception)
    assert path.read_text(encoding="utf-8") == "the one before"
    good(*arguments)
    assert json.loads(path.read_text(encoding="utf-8"))["records"]


def test_an_export_of_a_log_that_goes_on_has_no_hole(tmp_path: Path) -> None:
    """While records are handed out the log goes on in new files: none of what was there is missing or comes twice."""
    path = tmp_path / "log/audit.jsonl"
    writer = opened(path, limits=Limits(file_bytes=5_000))

    def more(count: int) -> None:
        writer.append([denied(number) for number in range(count)])
        writer.commit()

    more(12)
    there = writer.head.seq
    found = []
    for _, record in export.select(path, export.Selection()):
        found.append(record["seq"])
        more(2)
    writer.close()
    assert found == list(range(1, len(found) + 1)) and len(found) >= there
