"""What judging library calls costs: statements to SQLite and writes to TLS, in one run, as ratios to the bare call.

    .venv/bin/python tests/bench/calls.py [--json] [--rounds N]

Arms: `bare`, nothing attached; `bystander`, of no workload while the probes are set; `judged`, a workload whose
policy allows every call of it. Each round runs every arm once, in turning order; a figure is the median over the rounds
of the ratio to the bare arm of the same round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ratio, show

from tests.live import harness, probes

# Prints a line `NAME NS` (of CPU time) for each kind of call. TLS goes through memory: what is timed is the library.
PROGRAM = r"""
import sqlite3, ssl, subprocess
def timed(name, count, call):
    for _ in range(count // 10):
        call()
    begin = time.thread_time_ns()
    for _ in range(count):
        call()
    say(f"{name} {(time.thread_time_ns() - begin) / count}")
db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
for size, count in ((16, 4000), (1000, 2000), (10_000, 500)):
    text = "select '" + "x" * (size - 9) + "'"
    timed(f"sql-{size}", count, lambda: db.execute(text))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
trusting = ssl.create_default_context(cafile=sys.argv[1])
def connect():
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(one, two, server_hostname="localhost")
    server = context.wrap_bio(two, one, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return client, server, two
timed("tls-connection", 100, connect)
client, server, two = connect()
for size, count in ((100, 4000), (1000, 2000), (16_000, 500), (160_000, 100)):
    data = (b"an ordinary line of text, " * 7000)[:size]
    def write():
        client.write(data)
        two.read()
    timed(f"tls-{size}", count, write)
"""
KINDS = ("sql-16", "sql-1000", "sql-10000", "tls-connection", "tls-100", "tls-1000", "tls-16000", "tls-160000")
ALLOW = [{"tool": "sqlite", "operations": ["query"]}, {"tool": "tls", "operations": ["send"]}]


def figures(out: bytes) -> dict[str, float]:
    """Kind of call -> ns."""
    found = {name: float(ns) for name, ns in (line.split() for line in out.decode().splitlines())}
    assert found.keys() == set(KINDS), found
    return found


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 10
    found: dict[str, dict[str, list[float]]] = {
        arm: {kind: [] for kind in KINDS} for arm in ("bare", "bystander", "judged")
    }
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as name:
        folder = Path(name)
        certificate, key = folder / "server.pem", folder / "server.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        probe = probes.python(PROGRAM, certificate, key)

        def untagged() -> dict[str, float]:
            return figures(subprocess.run(probe, stdout=subprocess.PIPE, check=True).stdout)

        for _ in range(rounds):
            # not in turning order: it takes seconds to set the probes, and for the kernel to take them away
            time.sleep(5)
            taken = {"bare": untagged()}
            (folder / "state").mkdir(exist_ok=True)
            with harness.enforcing(folder / "state", {"bot": harness.agent(allow=ALLOW, on_violation="kill")}) as host:
                taken["bystander"] = untagged()
                run = host.run(probe)
                assert run.status == 0, run
                taken["judged"] = figures(run.out)
            for arm, values in taken.items():
                for kind, ns in values.items():
                    found[arm][kind].append(ns)
    bare = found["bare"]
    ratios = {arm: {kind: ratio(found[arm][kind], bare[kind]) for kind in KINDS} for arm in ("bystander", "judged")}
    rows = {
        kind: [f"{statistics.median(bare[kind]):,.0f} ns", *(f"{ratios[arm][kind]:.2f}" for arm in ratios)]
        for kind in KINDS
    }
    show("library calls, ratio to bare", ["bare", *ratios], rows, {"ratios": ratios, "rounds": rounds})


if __name__ == "__main__":
    main()
