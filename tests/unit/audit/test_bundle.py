"""Evidence bundles: what the published verifier passes and what is forged, and that only the first passes here."""

from __future__ import annotations

import copy
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aegis_verify.verifier import verify_bundle  # type: ignore[import-untyped]

from agentd.audit import export, keys
from agentd.audit.chain import GENESIS
from agentd.audit.evidence import bundle as maker
from agentd.audit.evidence import check, rows
from agentd.audit.evidence.order import Ordered
from agentd.audit.segments import Limits
from tests.unit.audit.samples import START, allowed, denied, opened
from tests.unit.audit.signed import LogSigner

Json = dict[str, Any]
NOW = START / 1e9 + 200_000
DAY = 86_400 * 1_000_000  # in the thousands of ns that samples count


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed log of three days, its keys, and the keys of a thief."""
    folder = tmp_path_factory.mktemp("bundle")
    writer = opened(folder / "log/audit.jsonl", clock=lambda: START, limits=Limits())
    LogSigner(writer, folder / "keys", interval=0)
    for number in range(90):
        item = denied if number % 3 else allowed
        writer.append([item(number + (number // 30) * DAY)])
    writer.close()
    keys.load(folder / "thief")
    return folder


def build(home: Path, key: str = "keys", **options: Any) -> Json:
    """The bundle of everything, or of what a selection passes."""
    wanted = options.pop("wanted", export.Selection())
    found = options.pop("records", export.select(home / "log/audit.jsonl", wanted))
    arguments: Json = {
        "framework": "eu-ai-act", "period": (None, None), "generated_at": "2026-11-25T00:00:00Z", "log": "a" * 64,
        "selected": wanted.filters(), "rotations": keys.rotations(home / key), "retention_days": None, **options,
    }  # fmt: skip
    out = io.StringIO()
    with Ordered(found, home) as records:
        maker.write(out, records, keys.load(home / key), **arguments)
    made: Json = json.loads(out.getvalue())
    return made


@pytest.fixture(scope="module")
def good(home: Path) -> Json:
    """The bundle of the whole log."""
    return build(home)


def published(made: Json) -> bool:
    """What aegis-aevf says."""
    return bool(verify_bundle(copy.deepcopy(made)).passed)


def ours(home: Path, made: Any, pin: str = "keys") -> str:
    """Why it is refused here; empty if it passes."""
    path = home / "judged.json"
    path.write_text(made if isinstance(made, str) else json.dumps(made), encoding="utf-8")
    return check.check_file(path, [keys.read_pin(home / pin / "signing.pub")], NOW).bad


def test_a_bundle_passes_both(home: Path, good: Json) -> None:
    """The published verifier passes an exported bundle, as a library and as a command, and so does this one."""
    assert published(good)
    assert ours(home, good) == ""
    path = home / "good.json"
    path.write_text(json.dumps(good), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "aegis_verify", "--bundle", path, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert (report["record_count"], report["merkle_root_count"]) == (len(good["records"]), 3)


@pytest.mark.parametrize("wanted", [{"agent": "research_bot"}, {"decision": "deny"}, {"tool": "shell"}])
def test_a_selection_passes_both(home: Path, wanted: dict[str, str]) -> None:
    """A filtered bundle has chains of its own, and says what was selected."""
    made = build(home, wanted=export.Selection(**wanted))
    assert published(made)
    assert ours(home, made) == ""
    assert json.loads(made["producer_metadata"]["statement"])["selected"] == wanted


def test_a_key_that_was_rotated_leads_here(home: Path, tmp_path: Path) -> None:
    """A bundle signed by a later key passes with the first key pinned."""
    first = keys.load(tmp_path / "keys").public
    keys.rotate(tmp_path / "keys", "2026-11-24T00:00:00Z")
    shutil.copytree(home / "log", tmp_path / "log")
    made = build(tmp_path, framework="soc2")
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps(made), encoding="utf-8")
    assert published(made)
    assert check.check_file(path, [first], NOW).ok
    made["producer_metadata"]["rotations"] = []
    path.write_text(json.dumps(made), encoding="utf-8")
    assert "and not by" in check.check_file(path, [first], NOW).bad


# --- forgeries that the published verifier passes ---------------------------------------------------------------------


def rechain(made: Json) -> Json:
    """Hashes made anew, as anybody can."""
    ends: dict[int, str] = {}
    for record in made["records"]:
        row = record["audit_row"]
        row["prev_hash"] = ends.get(row["chain_shard"], GENESIS)
        row["event_hash"] = ends[row["chain_shard"]] = rows.event_hash(row, row["prev_hash"])
    return made


def row(made: Json, index: int) -> Json:
    found: Json = made["records"][index]["audit_row"]
    return found


def edit(index: int, **members: Any) -> Callable[[Json], Json]:
    def change(made: Json) -> Json:
        row(made, index).update(members)
        return rechain(made)

    return change


def cut(first: int, last: int) -> Callable[[Json], Json]:
    def change(made: Json) -> Json:
        del made["records"][first:last]
        return rechain(made)

    return change


def members(**changes: Any) -> Callable[[Json], Json]:
    return lambda made: {**made, **changes}


def root(index: int, **changes: Any) -> Callable[[Json], Json]:
    def change(made: Json) -> Json:
        made["merkle_roots"][index].update(changes)
        return made

    return change


def extra_shard(made: Json) -> Json:
    added = copy.deepcopy(made["records"][5])
    added["audit_row"].update(id="9" * 16, chain_shard=77, timestamp=row(made, -1)["timestamp"], reason="forged")
    made["records"].append(added)
    return rechain(made)


def swap(made: Json) -> Json:
    one, two = row(made, 10), row(made, 11)
    one["timestamp"], two["timestamp"] = two["timestamp"], one["timestamp"]
    made["records"][10], made["records"][11] = made["records"][11], made["records"][10]
    return rechain(made)


def same_time(made: Json) -> Json:
    """Two rows of one shard at one moment, in the other order: what sorting by timestamp alone can't tell."""
    by_shard: dict[int, int] = {}
    for index in range(len(made["records"])):
        other = by_shard.setdefault(row(made, index)["chain_shard"], index)
        if other != index:
            row(made, index)["timestamp"] = row(made, other)["timestamp"]
            made["records"][other], made["records"][index] = made["records"][index], made["records"][other]
            return rechain(made)
    raise AssertionError("no two rows in one shard")


def last_day(made: Json) -> Json:
    day = made["merkle_roots"].pop()["root_date"]
    made["records"] = [record for record in made["records"] if record["merkle_root_date"] != day]
    return made


def first_day(made: Json) -> Json:
    day = made["merkle_roots"].pop(0)["root_date"]
    made["records"] = [record for record in made["records"] if record["merkle_root_date"] != day]
    return rechain(made)


def middle_day(made: Json) -> Json:
    day = made["merkle_roots"].pop(1)["root_date"]
    made["records"] = [record for record in made["records"] if record["merkle_root_date"] != day]
    made["merkle_roots"][1]["prev_root_hash"] = None
    return rechain(made)


def native(made: Json) -> Json:
    row(made, 7)["metadata_json"]["process"]["argv"] = ["ls"]
    return made


def mapping(made: Json) -> Json:
    made["records"][3]["mappings"]["soc2"] = ["CC9.9"]
    return made


def receipt(made: Json) -> Json:
    made["records"][3]["receipt"]["signature"] = made["records"][4]["receipt"]["signature"]
    return made


def doubled_key(made: Json) -> Json:
    made["public_keys"].append(copy.deepcopy(made["public_keys"][0]))
    return made


def doubled_row(made: Json) -> Json:
    made["records"].insert(6, copy.deepcopy(made["records"][5]))
    return rechain(made)


def no_records(made: Json) -> Json:
    return {**made, "records": []}


def nothing(made: Json) -> Json:
    return {**made, "records": [], "merkle_roots": [], "public_keys": []}


def no_statement(made: Json) -> Json:
    del made["producer_metadata"]
    return made


def retention(**changes: Any) -> Callable[[Json], Json]:
    def change(made: Json) -> Json:
        made["retention_metadata"].update(changes)
        return made

    return change


FORGED: dict[str, Callable[[Json], Json]] = {
    "a denial that says allow": edit(7, decision="allow"),
    "another agent did it": edit(7, agent_id="other_bot"),
    "another reason": edit(7, reason="all is well"),
    "another time": edit(-1, timestamp="2026-11-23T23:59:59.000000Z"),
    "the last row cut off": cut(-1, None),  # type: ignore[arg-type]
    "the last rows cut off": cut(-9, None),  # type: ignore[arg-type]
    "the first row cut off": cut(0, 1),
    "rows in the middle cut out": cut(20, 25),
    "every row cut out": no_records,
    "nothing in it at all": nothing,
    "a shard more": extra_shard,
    "a row twice": doubled_row,
    "two rows swapped with their times": swap,
    "two rows of one time swapped": same_time,
    "the last day cut off": last_day,
    "the first day cut off": first_day,
    "a day in the middle cut out": middle_day,
    "the record in a row changed": native,
    "another tenant": members(tenant_id="somebody else"),
    "another tenant in a row": edit(7, tenant_id="somebody else"),
    "another period": members(period={"start": "2026-01-01T00:00:00Z", "end": "2026-12-31T00:00:00Z"}),
    "a period that excludes rows": members(period={"start": "2026-11-22T00:00:00Z", "end": "2026-11-22T12:00:00Z"}),
    "another framework": members(framework="soc2"),
    "generated at another time": members(generated_at="2020-01-01T00:00:00Z"),
    "another root beside the signed text": root(1, leaf_count=99),
    "another last id beside the signed text": root(1, leaf_range_end_id="0" * 16),
    "another day beside the signed text": root(2, root_date="2026-12-31"),
    "another algorithm": root(0, algorithm="none"),
    "a mapping changed": mapping,
    "a receipt of another row": receipt,
    "a key twice": doubled_key,
    "the statement removed": no_statement,
    "a member more": members(note="trust me"),
    "the retention's first row changed": retention(earliest_row_in_bundle="2026-11-22T00:00:00Z"),
    "the retention's days changed": retention(configured_retention_days=400),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forgery_that_the_published_verifier_passes(home: Path, good: Json, what: str) -> None:
    """Each of these passes aegis-aevf, which is the control that it is a forgery worth refusing, and fails here."""
    made = FORGED[what](copy.deepcopy(good))
    assert made != good
    assert published(made), "no control: the published verifier refuses it too"
    assert ours(home, made) != ""


@pytest.mark.parametrize("kid", ["its own", "the host's"])
def test_a_bundle_of_a_thief(home: Path, good: Json, kid: str) -> None:
    """Everything made and signed with another key, under its own fingerprint or the host's, passes aegis-aevf only."""
    made = build(home, key="thief")
    if kid == "the host's":
        name = good["public_keys"][0]["kid"]
        made["public_keys"][0]["kid"] = name
        for item in made["merkle_roots"]:
            item["kid"] = name
    assert published(made)
    assert ours(home, made, pin="thief") == "" or kid == "the host's"
    assert ours(home, made) != ""


def test_roots_of_another_bundle(home: Path, good: Json) -> None:
    """Good signatures of the same key over other rows don't cover these."""
    made = copy.deepcopy(good)
    made["merkle_roots"] = build(home, wanted=export.Selection(decision="deny"))["merkle_roots"]
    assert published(made)
    assert "is not what was signed" in ours(home, made) or "not that of the rows" in ours(home, made)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value that is not an object or a list."""
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in leaves(inner, (*path, name))]
    if isinstance(value, list):
        return [found for index, inner in enumerate(value) for found in leaves(inner, (*path, index))]
    return [path]


def test_every_changed_value_is_found(home: Path) -> None:
    """Whatever single value of a bundle is changed, in a row, a key, a root or around them, it is refused."""
    third = sorted(record["timestamp"] for _, record in export.select(home / "log/audit.jsonl", export.Selection()))[2]
    made = build(home, wanted=export.Selection(until=third))
    assert ours(home, made) == ""
    for path in leaves(made):
        changed = copy.deepcopy(made)
        at = changed
        for step in path[:-1]:
            at = at[step]
        old = at[path[-1]]
        at[path[-1]] = old + 1 if isinstance(old, int) and not isinstance(old, bool) else f"{old}x"
        assert ours(home, changed) != "", path


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "a member twice": '{"records": [], "records": []}',
    "a fraction": '{"format_version": 1.5}',
    "not a number": '{"format_version": NaN}',
    "deep": '{"records": ' + "[" * 100_000,
    "nothing": "",
    "wrong types": json.dumps(dict.fromkeys(sorted(check.BUNDLE_MEMBERS), 7)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_bundle_is_refused_in_a_sentence(home: Path, what: str) -> None:
    """Malformed input has a reason and no traceback."""
    assert ours(home, BROKEN[what]) != ""


def test_types_are_what_they_should_be(home: Path, good: Json) -> None:
    """Every member of the bundle replaced by null, a number, a list and an object is refused and breaks nothing."""
    for value in (None, 3, [], {}, [None], {"a": None}, "\ud800"):
        for name in good:
            assert ours(home, {**good, name: value}) != "", (name, value)
        for name in good["records"][0]:
            made = {**good, "records": [{**good["records"][0], name: value}, *good["records"][1:]]}
            assert ours(home, made) != "", (name, value)
        for name in good["merkle_roots"][0]:
            made = {**good, "merkle_roots": [{**good["merkle_roots"][0], name: value}, *good["merkle_roots"][1:]]}
            if value != good["merkle_roots"][0][name]:
                assert ours(home, made) != "", (name, value)
