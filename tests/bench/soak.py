"""100,000 short processes under one engine: denials on record, entries left in maps, growth of the engine.

    .venv/bin/python tests/bench/soak.py [--json] [--count N]

Runs tests/live/test_soak.py's swarm (a fork and an exec of /bin/true each, every tenth followed by a connect that is
denied), in five rounds, and shows the books after each. By default 10,000, to keep ./dev bench short.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from _common import show

from tests.live.probes import Compiler
from tests.live.test_soak import SWARM, check, soak

ROUNDS = 5
EVERY = 10


def main() -> None:
    count = int(sys.argv[sys.argv.index("--count") + 1]) if "--count" in sys.argv else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = Compiler(folder).program(SWARM)
        begun = time.perf_counter()
        books = soak(folder, program, count // ROUNDS, EVERY, rounds=ROUNDS)
        took = time.perf_counter() - begun
        check(books)
    columns = ["records", "resident KiB", "counts", "grants", "answers"]
    rows = {
        f"after {count // ROUNDS * (number + 1):,}": [
            f"{book['last'] - book['first']:,}",
            f"{book['resident']:,}",
            str(book["counts0"] + book["counts1"]),
            str(book["grants"]),
            str(book["answers"]),
        ]
        for number, book in enumerate(books)
    }
    records = sum(book["last"] - book["first"] for book in books)
    title = f"soak: {count:,} processes in {took:.0f} s, {records / took:,.0f} records/s, none lost"
    show(title, columns, rows, {"processes": count, "seconds": took, "records": records, "books": books})


if __name__ == "__main__":
    main()
