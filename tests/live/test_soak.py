"""Very many short processes: no denial is lost, no map keeps what is gone, the engine does not grow."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import Host, agent, enforcing
from tests.live.probes import Compiler

pytestmark = pytest.mark.root

# argv: processes, one in how many connects to a port that is denied. Each is a fork and an exec of /bin/true; the
# parent makes the connects, between them.
SWARM = r"""
#include <arpa/inet.h>
#include <sys/socket.h>
int main(int argc, char **argv)
{
	long count = atol(argv[1]), every = atol(argv[2]), refused = 0;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(10), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int sock = socket(AF_INET, SOCK_DGRAM, 0);

	for (long i = 0; i < count; i++) {
		int status;
		pid_t pid = fork();

		if (!pid) {
			execl("/bin/true", "true", NULL);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			return 2;
		if (i % every == 0) {
			if (!connect(sock, (struct sockaddr *)&to, sizeof(to)) || errno != EPERM)
				return 3;
			refused++;
		}
	}
	printf("%ld\n", refused);
	return 0;
}
"""


def resident() -> int:
    """KiB of this process that are its own."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def entries(host: Host) -> dict[str, int]:
    """How many keys each map has that could keep something for ever."""
    loaded = host.engine.loaded
    maps = {
        "counts0": loaded.counts[0],
        "counts1": loaded.counts[1],
        "grants": loaded.grants,
        "answers": loaded.answers,
    }
    return {name: len(list(found.keys())) for name, found in maps.items()}


def swarm(host: Host, program: Path, count: int, every: int) -> dict[str, Any]:
    """Runs it, flushes, and says what is on the books; nothing is read back yet, that would be memory too."""
    first = host.engine.audit.head.seq
    workload = host.start([program, str(count), str(every)])
    host.until(lambda: workload.ended)
    host.settle(workload)
    assert int(workload.output) == -(-count // every)
    os.close(workload._pidfd)
    host.engine.flush()
    host.engine.tick()
    gc.collect()
    return {"first": first, "last": host.engine.audit.head.seq, "resident": resident(), **entries(host)}


def soak(folder: Path, program: Path, count: int, every: int, *, rounds: int) -> list[dict[str, Any]]:
    """`rounds` swarms one after the other, under one engine; then every operation is looked for in its log."""
    with enforcing(folder, {"bot": agent(deny=[{"tool": "network", "hosts": ["127.0.0.1:10"]}])}) as host:
        books = [swarm(host, program, count, every) for _ in range(rounds)]
        assert host.engine.marks.none_left()
        lost = host.engine.status()["lost"]
        assert not any(lost.values()), lost
        records = host.records()
    for book in books:
        mine = [r for r in records if book["first"] < r["seq"] <= book["last"] and r["kernel_operation"]]
        denied = [r for r in mine if r["event"] == "denied" and r["kernel_operation"] == "connect"]
        execs = [r for r in mine if r["event"] == "allowed" and r["kernel_operation"] == "exec"]
        assert sum(r.get("count") or 1 for r in denied) == -(-count // every)
        assert sum(r["count"] for r in execs) == count
    assert not [r for r in records if r["event"] == "gap"]
    return books


def check(books: list[dict[str, Any]]) -> None:
    """The first rounds may fill caches; after them nothing grows."""
    for name in ("counts0", "counts1", "grants", "answers"):
        assert books[-1][name] == 0, books
    assert books[-1]["resident"] < books[1]["resident"] + 2 * 1024, books


def test_five_thousand_processes(compiler: Compiler, tmp_path: Path) -> None:
    """5,000 processes with a denial every ten: every denial and every exec is on record, and nothing is left behind."""
    check(soak(tmp_path, compiler.program(SWARM), 1_000, 10, rounds=5))


def test_a_hundred_thousand_processes(compiler: Compiler, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """100,000 processes, as many as the issue asks for (with --slow; tests/bench/soak.py measures them)."""
    if not request.config.getoption("--slow"):
        pytest.skip("takes minutes: give --slow")
    check(soak(tmp_path, compiler.program(SWARM), 20_000, 10, rounds=5))
