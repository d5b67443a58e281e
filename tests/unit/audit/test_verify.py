"""Attacks on a log: each one is found, and the place is named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.audit import chain, form, record, verify
from agentd.errors import AgentdError
from tests.unit.audit.samples import denied, make, opened

RECORDS = 12


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a good log."""
    return make(tmp_path_factory.mktemp("log") / "audit.jsonl", RECORDS).read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., verify.Result]]:
    """Verifies bytes as a log that nobody is writing."""
    path = tmp_path_factory.mktemp("judge") / "audit.jsonl"

    def result(data: bytes, **options: object) -> verify.Result:
        path.write_bytes(data)
        return verify.verify(path, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "_TORN_WAIT", (1, 0.0))
        yield result


def test_a_good_log_is_good(lines: list[bytes], judge: Callable[..., verify.Result]) -> None:
    """An untouched log verifies, strictly too, and the result names its head."""
    result = judge(b"".join(lines), strict=True)
    assert (result.ok, result.records, result.last_seq) == (True, RECORDS, RECORDS)
    assert result.head == json.loads(lines[-1])["hash"]
    assert any("NOT checked" in note for note in result.notes)


def test_the_documented_ten_lines_agree(lines: list[bytes], tmp_path: Path) -> None:
    """The recipe in chain's docstring accepts a good log and refuses a changed one."""
    recipe = chain.__doc__ or ""
    code = textwrap.dedent(recipe[recipe.index("    import hashlib") : recipe.index("The verifier here")])
    path = tmp_path / "audit.jsonl"
    for data, status in ((b"".join(lines), 0), (b"".join(lines).replace(b"bot", b"bat", 1), 1)):
        path.write_bytes(data)
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
        assert done.returncode == status, done.stderr


def test_an_empty_log_is_an_empty_chain(judge: Callable[..., verify.Result]) -> None:
    """No records is no error by itself, but an expected head or count isn't there."""
    assert judge(b"").ok
    assert judge(b"", head=chain.GENESIS).ok
    assert not judge(b"", count=1).ok
    assert not judge(b"", head="a" * 64).ok


@given(data=st.data())
def test_every_flipped_bit_is_found(
    lines: list[bytes], judge: Callable[..., verify.Result], data: st.DataObject
) -> None:
    """One flipped bit anywhere is found, in its own line or as a broken link of the next."""
    log = bytearray(b"".join(lines))
    at = data.draw(st.integers(0, len(log) - 1))
    log[at] ^= 1 << data.draw(st.integers(0, 7))
    result = judge(bytes(log))
    assert result.bad is not None
    assert result.bad.offset <= at
    assert result.bad.line == b"".join(lines)[:at].count(b"\n") + 1


@given(at=st.integers(0, RECORDS - 2), count=st.integers(1, 4))
def test_every_deletion_before_the_end_is_found(
    lines: list[bytes], judge: Callable[..., verify.Result], at: int, count: int
) -> None:
    """Records removed at the start or in the middle are found right where they are missing."""
    left = lines[:at] + lines[min(at + count, RECORDS - 1) :]
    bad = judge(b"".join(left)).bad
    assert bad is not None
    assert (bad.line, bad.offset) == (at + 1, sum(map(len, lines[:at])))
    assert "missing" in bad.why


@given(at=st.integers(0, RECORDS), source=st.integers(0, RECORDS - 1))
def test_every_repetition_is_found(
    lines: list[bytes], judge: Callable[..., verify.Result], at: int, source: int
) -> None:
    """A record copied to any place is found."""
    assert not judge(b"".join([*lines[:at], lines[source], *lines[at:]])).ok


@given(order=st.permutations(range(RECORDS)))
def test_every_reordering_is_found(lines: list[bytes], judge: Callable[..., verify.Result], order: list[int]) -> None:
    """Any order but the written one is found."""
    assert judge(b"".join(lines[index] for index in order)).ok == (order == sorted(order))


@given(at=st.integers(0, RECORDS), junk=st.binary(min_size=1).filter(lambda junk: junk.strip(b"\n") != b""))
def test_every_insertion_is_found(
    lines: list[bytes], judge: Callable[..., verify.Result], at: int, junk: bytes
) -> None:
    """Foreign lines at any place are found."""
    assert not judge(b"".join([*lines[:at], junk + b"\n", *lines[at:]])).ok


@pytest.mark.parametrize("junk", [b"\n", b"\r", b" ", b"\0", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("where", ["start", "end of a line", "end"])
def test_white_space_is_damage(
    lines: list[bytes], judge: Callable[..., verify.Result], junk: bytes, where: str
) -> None:
    """Even blanks that a JSON parser would pass over are found."""
    log = {
        "start": junk + b"".join(lines),
        "end of a line": lines[0][:-1] + junk + b"\n" + b"".join(lines[1:]),
        "end": b"".join(lines) + junk,
    }[where]
    assert not judge(log).ok


@given(cut=st.integers(1, RECORDS - 1), keep=st.integers(1, RECORDS - 1))
def test_a_splice_of_two_logs_is_found(
    lines: list[bytes],
    judge: Callable[..., verify.Result],
    tmp_path_factory: pytest.TempPathFactory,
    cut: int,
    keep: int,
) -> None:
    """The start of one log and the rest of another, even with fitting numbers, don't make a chain."""
    other = make(tmp_path_factory.mktemp("other") / "audit.jsonl", RECORDS, first=1).read_bytes()
    rest = other.splitlines(keepends=True)
    bad = judge(b"".join(lines[:cut] + rest[keep:])).bad
    assert bad is not None
    assert bad.line == cut + 1


def test_a_resealed_record_breaks_the_next_link(lines: list[bytes], judge: Callable[..., verify.Result]) -> None:
    """A record rewritten with a hash of its own that fits is found at the record after it."""
    found = json.loads(lines[4])
    for member in ("hash", "prev_hash", "seq"):
        found.pop(member)
    before = chain.Link(4, json.loads(lines[3])["hash"])
    forged, _ = chain.seal({**found, "decision": "allow"}, before)
    bad = judge(b"".join([*lines[:4], forged, *lines[5:]])).bad
    assert bad is not None
    assert (bad.line, bad.seq) == (6, 6)


@pytest.mark.parametrize("keep", range(1, RECORDS))
def test_a_cut_end_needs_a_noted_head(lines: list[bytes], judge: Callable[..., verify.Result], keep: int) -> None:
    """Records cut off at the end are found with a head or a count noted before, and the result says so without."""
    log = b"".join(lines[:keep])
    head = json.loads(lines[-1])["hash"]
    assert judge(log).ok
    assert not judge(log, head=head).ok
    assert not judge(log, count=RECORDS).ok
    early = json.loads(lines[keep - 1])["hash"]
    assert judge(b"".join(lines), head=early, count=keep).ok


@given(cut=st.data())
def test_an_end_cut_inside_a_line_is_found(
    lines: list[bytes], judge: Callable[..., verify.Result], cut: st.DataObject
) -> None:
    """A log that ends within a line is found torn."""
    log = b"".join(lines)
    end = cut.draw(st.integers(1, len(log) - 1).filter(lambda at: log[at - 1 : at] != b"\n"))
    bad = judge(log[:end]).bad
    assert bad is not None
    assert "no end" in bad.why


def test_a_line_that_is_just_being_written_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the end of a last line comes while the log is verified, the log is good."""
    path = make(tmp_path / "audit.jsonl", 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])

    def finish(_: float) -> None:
        path.write_bytes(whole)

    monkeypatch.setattr(verify.time, "sleep", finish)
    result = verify.verify(path)
    assert (result.ok, result.records, result.size) == (True, 3, len(whole))


@pytest.mark.parametrize("place", ["before guarantee", "in process", "at the end"])
def test_the_hash_has_one_place(lines: list[bytes], judge: Callable[..., verify.Result], place: str) -> None:
    """Moving the hash to another place in its own line leaves the hashed bytes alone, and is found all the same."""
    line = lines[4]
    at = line.index(b'"hash":"')
    seal, rest = line[at : at + 75], line[:at] + line[at + 75 :]
    anchor = {"before guarantee": b'"guarantee"', "in process": b'"argv"', "at the end": b'"tool_name"'}[place]
    to = rest.index(anchor)
    assert not judge(b"".join([*lines[:4], rest[:to] + seal + rest[to:], *lines[5:]])).ok


FORGED = {
    "members are missing": '{"guarantee":null,"host":"h","object":"é","prev_hash":"%s","seq":1,"timestamp":""}',
    "another canonical form": '{"guarantee":null,"host":"h", "prev_hash":"","prev_hash":"%s","seq":1,"timestamp":""}',
    "1.5 is a number": '{"guarantee":null,"host":1.5,"prev_hash":"%s","seq":1,"timestamp":""}',
    "99999 is a number": '{"guarantee":null,"host":' + "9" * 5000 + ',"prev_hash":"%s","seq":1,"timestamp":""}',
    "NaN is a number": '{"guarantee":null,"host":NaN,"prev_hash":"%s","seq":1,"timestamp":""}',
    "Expecting": '{"guarantee":null,"host":x,"prev_hash":"%s","seq":1,"timestamp":""}',
    "utf-8": '{"guarantee":null,"host":"\udcff","prev_hash":"%s","seq":1,"timestamp":""}',
    "recursion": '{"guarantee":null,"host":' + "[" * 9999 + ',"prev_hash":"%s","seq":1,"timestamp":""}',
}


@pytest.mark.parametrize("why", FORGED)
def test_strict_finds_what_was_never_a_record(judge: Callable[..., verify.Result], why: str) -> None:
    """A chain that fits but isn't canonical JSON, or lacks members, is found by a strict check."""
    unsealed = (FORGED[why] % chain.GENESIS).encode("utf-8", "surrogateescape")
    seal = b'"hash":"%b","host"' % hashlib.sha256(unsealed).hexdigest().encode()
    line = unsealed.replace(b'"host"', seal, 1) + b"\n"
    assert judge(line).ok
    bad = judge(line, strict=True).bad
    assert bad is not None
    assert why in bad.why


def test_recorded_losses_are_pointed_at(tmp_path: Path) -> None:
    """A good log with gap and repair records is good, and the result says how many and where the first is."""
    path = make(tmp_path / "audit.jsonl", 2)
    with path.open("ab") as log:
        log.write(b"torn")
    writer = opened(path)
    writer.append([record.gap(0, "g", {"denied": 1}, "ring-full"), denied(), record.gap(1, "h", {"denied": 1}, "x")])
    writer.close()
    result = verify.verify(path)
    assert (result.ok, result.gaps, result.repairs) == (True, 2, 1)
    assert any("2, the first is record 4" in note for note in result.notes)


def test_an_endless_line_is_damage(judge: Callable[..., verify.Result]) -> None:
    """A line longer than any record is named as such and isn't read into memory."""
    bad = judge(b"x" * (3 << 20)).bad
    assert bad is not None
    assert "longer" in bad.why


def test_progress_reaches_the_end(lines: list[bytes], judge: Callable[..., verify.Result]) -> None:
    """The progress callback is told how far it is and how far it goes."""
    seen: list[tuple[int, int]] = []
    judge(b"".join(lines), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (sum(map(len, lines)),) * 2


def test_a_missing_log_is_usage(tmp_path: Path) -> None:
    """A path without a log is an error with exit code 2; a directory means the log in it."""
    with pytest.raises(AgentdError) as caught:
        verify.locate(tmp_path)
    assert caught.value.exit_code == 2
    assert verify.locate(make(tmp_path / "audit.jsonl", 1).parent) == tmp_path / "audit.jsonl"


MEASURE = """
import sys
from pathlib import Path
from agentd.audit import verify
result = verify.verify(Path(sys.argv[1]))
# Not ru_maxrss: that survives exec, and would show the memory of the process that started this one.
print(result.records, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """Verifying 40 times as much takes the same memory."""
    peaks = []
    for count in (500, 20_000):
        path = make(tmp_path / f"{count}.jsonl", count)
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
        records, peak = map(int, done.stdout.split())
        assert records == count
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 4 << 10, f"{peaks} KiB"
