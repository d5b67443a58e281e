"""Records per second of the audit log: append+commit by batch size, verify of a signed log with its key pinned, and
--strict; verify of the worst case, a log of denials with a signature after each; memory of a verify. Then what a
denial's receipt costs: signing and checking one.

    .venv/bin/python tests/bench/audit.py [RECORDS]

Ratios compare with the least that the job can be on this machine, measured in the same run: for verifying, SHA-256 over
the lines of the same file; for committing, a bare write and fdatasync of the same bytes. Two records of three are full
denials of about 1 KB, one is a summary.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from agentd.audit import keys, verify  # noqa: E402
from agentd.audit.crew import processors  # noqa: E402
from agentd.audit.signer import LogSigner  # noqa: E402
from tests.unit.audit.samples import allowed, denied, opened  # noqa: E402

BATCHES = (1, 16, 256)
PEAK = """
import sys
from pathlib import Path
from agentd.audit import keys, verify
result = verify.verify(Path(sys.argv[1]), pins=[keys.read_pin(Path(sys.argv[2]))])
assert result.ok, result
# Not ru_maxrss: that survives exec, and would show the parent's memory.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def seconds(job: Callable[[], object]) -> float:
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


RECORDS = [denied(number) if number % 3 else allowed(number) for number in range(3000)]


def write(path: Path, count: int, batch: int, key: Path | None = None, each: bool = False) -> None:
    writer = opened(path)
    signer = None if key is None else LogSigner(writer, key, delay=0, interval=0 if each else 10)
    if signer is not None and not each:
        signer.start()
    for first in range(0, count, batch):
        writer.append(RECORDS[number % len(RECORDS)] for number in range(first, min(first + batch, count)))
        writer.commit()
        if signer is not None and each:
            signer.round()
    writer.close()


def write_bare(path: Path, data: bytes, commits: int) -> None:
    step = len(data) // commits
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(data), step):
            file.write(data[at : at + step])
            os.fdatasync(file.fileno())


def hash_lines(path: Path) -> None:
    with path.open("rb", buffering=1 << 18) as file:
        for line in file:
            hashlib.sha256(line).hexdigest()


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        folder = Path(name)
        for batch in BATCHES:
            count = min(records, 1000 * batch)
            path = folder / f"{batch}.jsonl"
            took = seconds(lambda path=path, count=count, batch=batch: write(path, count, batch))  # type: ignore[misc]
            data = path.read_bytes()
            commits = -(-count // batch)
            bare = seconds(lambda data=data, commits=commits: write_bare(folder / "bare", data, commits))  # type: ignore[misc]
            print(
                f"append+commit of {batch:>3} {count / took:>11,.0f} records/s "
                f"{took / bare:7.2f} x a bare write+fdatasync"
            )
        path, key = folder / "signed" / "audit.jsonl", folder / "keys"
        took = seconds(lambda: write(path, records, 256, key))
        print(f"the same, all signed   {records / took:>9,.0f} records/s")
        pins = [keys.read_pin(key / "signing.pub")]
        floor = seconds(lambda: hash_lines(path))
        for label, strict in (("verify", False), ("verify --strict", True)):
            took = seconds(lambda strict=strict: verify.verify(path, strict=strict, pins=pins))  # type: ignore[misc]
            print(f"{label:<20} {records / took:>9,.0f} records/s   {took / floor:5.2f} x SHA-256 of the lines")
        worst = folder / "worst" / "audit.jsonl"
        write(worst, min(records, 20_000), 1, key, each=True)
        many = verify.verify(worst, pins=pins, jobs=1).records
        floor_of_worst = seconds(lambda: hash_lines(worst))
        for label, jobs in (("the worst, 1 process", 1), (f"the same, {processors()}", processors())):
            took = seconds(lambda jobs=jobs: verify.verify(worst, pins=pins, jobs=jobs))  # type: ignore[misc]
            print(f"{label:<20} {many / took:>9,.0f} records/s   {took / floor_of_worst:5.2f} x SHA-256 of the lines")
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path), str(key / "signing.pub")],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        print(f"verify, peak memory  {int(done.stdout) / 1024:>9,.1f} MiB for {path.stat().st_size / 1e6:,.0f} MB")
        pair, data = keys.load(key), b"x" * 500
        for label, job in (("a signature", lambda: pair.sign(data)), ("checking one", signed_check(pair, data))):
            took = seconds(lambda job=job: [job() for _ in range(1000)])  # type: ignore[misc]
            print(f"{label:<20} {took * 1000:>9,.0f} us")


def signed_check(pair: keys.SigningKey, data: bytes) -> Callable[[], object]:
    signature = pair.sign(data)
    return lambda: pair.public.signed(data, signature)


if __name__ == "__main__":
    main()
