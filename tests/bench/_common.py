"""What the kernel benchmarks share: the timed process, programs that attach and detach, ratios of rounds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "tests" / "bench"
sys.path.insert(0, str(ROOT))

from agentd.kernel import features, prepare  # noqa: E402
from agentd.kernel.hooks import HOOKS  # noqa: E402
from agentd.kernel.libbpf import library, pointer  # noqa: E402


class Timed:
    """A process of cost.c. `run` gives nanoseconds per operation."""

    def __init__(self, program: Path, argument: str) -> None:
        self._process = subprocess.Popen([program, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def run(self, operation: str, count: int) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(operation, count, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the timed process ended at {operation!r}")
        return float(line)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def compiled() -> Iterator[Path]:
    """The folder with `cost`, compiled, and a file `file` to open."""
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        compile_ = ["gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", folder / "cost", BENCH / "cost.c"]
        subprocess.run(compile_, check=True)
        (folder / "file").touch()
        yield folder


class Hooks:
    """The programs of agentd, verified once, attached to this host or not."""

    def __init__(self) -> None:
        pins = Path("/sys/fs/bpf/agentd-bench")
        self._object = prepare.prepare(prepare.bpf_object(prepare.OBJECT), pins, prepare.MIN_ARENA_WORDS, False).obj
        self._links: list[int] = []

    def attach(self, wanted: Callable[[str], bool]) -> None:
        lib = library()
        root = os.open(features.cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY)
        for hook in HOOKS:
            if wanted(hook.program):
                program = pointer(lib.bpf_object__find_program_by_name(self._object, hook.program.encode()), "find")
                made = (
                    lib.bpf_program__attach_cgroup(program, root) if hook.cgroup else lib.bpf_program__attach(program)
                )
                self._links.append(pointer(made, f"attach {hook.program}"))
        os.close(root)

    def detach(self) -> None:
        for link in self._links:
            library().bpf_link__destroy(link)
        self._links.clear()


class EmptyHook:
    """empty.bpf.c: the same interface."""

    def __init__(self, folder: Path) -> None:
        made = folder / "empty.bpf.o"
        include = f"/usr/include/{os.uname().machine}-linux-gnu"
        subprocess.run(
            ["clang-16", "-target", "bpf", "-O2", "-g", "-idirafter", include, "-c", BENCH / "empty.bpf.c", "-o", made],
            check=True,
        )
        self._object = pointer(library().bpf_object__open_file(os.fsencode(made), None), "open")
        prepare.pointer_or_error(library().bpf_object__load(self._object), "empty.bpf.o")
        self._program = pointer(library().bpf_object__find_program_by_name(self._object, b"empty"), "find")
        self._link = 0

    def attach(self) -> None:
        self._link = pointer(library().bpf_program__attach(self._program), "attach empty")

    def detach(self) -> None:
        library().bpf_link__destroy(self._link)


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios of values measured next to each other."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def show(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], what: Mapping[str, object]) -> None:
    """A table, or with --json the figures as one line."""
    if "--json" in sys.argv[1:]:
        print(json.dumps({"benchmark": title, **what}))
        return
    width = max(len(name) for name in rows)
    print(f"{title}\n{'':{width}} " + " ".join(f"{column:>14}" for column in columns))
    for name, cells in rows.items():
        print(f"{name:{width}} " + " ".join(f"{cell:>14}" for cell in cells))
