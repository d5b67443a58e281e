"""How long 10,000 path rules take to compile and how much memory at the peak, for several shapes of policy.

    python tests/bench/automaton.py [SHAPE ...]

Every shape is compiled in a process of its own; the memory is the growth of its peak resident set over what it had
with the modules imported and the patterns made. The last column is the length of the tables the kernel would hold.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Hashable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agentd.policy.automaton import StateLimit, compile_globs
from agentd.policy.patterns import Dialect, Glob

COUNT = 10_000
MAX_STATES = 500_000


def trees() -> list[str]:
    return [f"/srv/data/dir_{i}/**" for i in range(COUNT)]


def literals() -> list[str]:
    rng = random.Random(1)
    return [f"/var/lib/agents/{rng.choice('abcd')}/objects/{rng.getrandbits(128):032x}.bin" for _ in range(COUNT)]


def names() -> list[str]:
    return [f"**/name_{i}" for i in range(COUNT)]


def suffixes() -> list[str]:
    return [f"**/*.ext{i}" for i in range(COUNT)]


def mixture() -> list[str]:
    return _cycle(
        "/srv/p{0}/src/*.py",
        "/srv/p{0}/log-????.txt",
        "/home/*/work_{0}/**",
        "/data/d{0}/*/part-[!x]-*.csv",
        "/opt/t{0}/[a-f0-9][a-f0-9]/*",
        "/data/{0}/**/done",
        "/usr/lib/*/lib?{0}.so*",
        "/run/{0}/[!.]*",
    )


def mixed_rules() -> list[str]:
    return _cycle(
        "/srv/p{0}/src/*.py",
        "**/cache_{0}/index",
        "/home/*/work_{0}/**",
        "**/*.v{0}",
        "/opt/t{0}/[a-f0-9][a-f0-9]/*",
        "/data/{0}/**/done",
        "**/[!.]*_{0}.log",
        "/run/{0}/x?z",
    )


def _cycle(*shapes: str) -> list[str]:
    return [shapes[i % len(shapes)].format(i) for i in range(COUNT)]


def deep_trees() -> list[str]:
    rng = random.Random(2)
    return [f"/home/agent/sessions/{rng.getrandbits(128):032x}/**" for _ in range(COUNT)]


def stars() -> list[str]:
    return ["**/*" + "*".join(random.Random(i).choices("abcdefgh", k=6)) for i in range(30)]


def everywhere() -> list[str]:
    return [f"**/word_{i}/**" for i in range(COUNT)]


def own(matched: frozenset[int]) -> Hashable:
    return min(matched, default=-1)


def one(matched: frozenset[int]) -> Hashable:
    return bool(matched)


def eighth(matched: frozenset[int]) -> Hashable:
    return frozenset(i % 8 for i in matched)


SHAPES: dict[str, tuple[Callable[[], list[str]], Callable[[frozenset[int]], Hashable]]] = {
    "a-trees": (trees, own),
    "b-literals": (literals, own),
    "c-names": (names, own),
    "d-suffixes": (suffixes, own),
    "e-one-rule": (literals, one),
    "f-mixture": (mixture, own),
    "f-eight-rules": (mixed_rules, eighth),
    "g-deep-trees": (deep_trees, own),
    "x-stars": (stars, own),
    "x-everywhere": (everywhere, own),
}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(shape: str) -> str:
    make, payload = SHAPES[shape]
    patterns = [Glob(text, Dialect.AGENTD) for text in make()]
    labels = (
        [i % 8 for i in range(len(patterns))] if payload is eighth else [0] * len(patterns) if payload is one else None
    )
    before = peak()
    begin, cpu = time.perf_counter(), time.process_time()
    try:
        dfa = compile_globs(patterns, payload, max_states=MAX_STATES, labels=labels)
    except StateLimit as limit:
        result = f"refused: {limit}"
    else:
        words = 4 * dfa.n_states + 2 * len(dfa.comb_check)
        result = f"{dfa.n_states:8} states {len(dfa.comb_check):8} slots {words:9} words"
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return f"{shape:14} {wall:6.2f} s ({cpu:5.2f} s CPU) {peak() - before:6.1f} MB  {result}"


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--measure"]:
        print(measure(arguments[1]))
        return 0
    for shape in arguments or SHAPES:
        subprocess.run([sys.executable, __file__, "--measure", shape], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
