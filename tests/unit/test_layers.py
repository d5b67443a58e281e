"""Imports point down only, and what is pure stays pure: read from the source of agentd/, nothing is imported here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agentd"

# What each layer may import besides itself; the picture is in CONTRIBUTING.md.
BASE = {"errors", "model", "resources"}
ADAPTERS = {"kernel", "calls", "workloads", "actions", "approvals", "audit", "metrics", "notify"}
POLICY = BASE | {"policy", "catalogue"}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "model": {"errors"},
    "resources": {"errors"},
    "policy": BASE,
    "catalogue": BASE | {"policy"},
    **{adapter: POLICY | {"failure", "config"} for adapter in ADAPTERS},
    "failure": {"errors", "model"},
    "config": {"errors", "model"},
    "engine": POLICY | ADAPTERS | {"failure", "config"},
    "daemon": POLICY | ADAPTERS | {"failure", "config", "engine"},
    "cli": POLICY | ADAPTERS | {"failure", "config", "engine", "daemon", "demo", "__init__"},
    "demo": POLICY | ADAPTERS | {"failure", "config"},
    "__main__": {"cli", "kernel"},
}
PURE = ("errors", "model", "policy", "catalogue")
IMPURE_MODULES = {
    "ctypes", "fcntl", "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "random", "select", "selectors",
    "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time", "asyncio",
}  # fmt: skip
# Where files are read, explicitly.
MAY_READ_FILES = {"policy/source.py", "catalogue/shipped.py"}
IMPURE_CALLS = {"open", "input", "print"}
IMPURE_ATTRIBUTES = {"now", "utcnow", "today", "read_text", "read_bytes", "write_text", "write_bytes"}


@dataclass(frozen=True, slots=True)
class Import:
    file: str  # relative to agentd/
    line: int
    module: str  # dotted, absolute
    lazy: bool

    def __str__(self) -> str:
        return f"agentd/{self.file}:{self.line}: {self.module}"

    @property
    def layer(self) -> str:
        return layer_of(self.file)

    @property
    def target(self) -> str | None:
        """The layer imported, None for a module from elsewhere."""
        parts = self.module.split(".")
        if parts[0] != "agentd":
            return None
        return parts[1] if len(parts) > 1 else "__init__"


def layer_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] == "_share":
            continue
        yield relative.as_posix(), ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports() -> Iterator[Import]:
    for file, tree in sources():
        yield from imports_of(file, tree)


def imports_of(file: str, tree: ast.Module) -> Iterator[Import]:
    top_level = set(map(id, tree.body))
    package = ["agentd", *Path(file).parent.parts]
    for node in ast.walk(tree):
        lazy = id(node) not in top_level
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            if base == "agentd":  # `from agentd import model` names a layer
                for alias in node.names:
                    known = (PACKAGE / alias.name).is_dir() or (PACKAGE / f"{alias.name}.py").is_file()
                    yield Import(file, node.lineno, f"agentd.{alias.name}" if known else "agentd", lazy)
            else:
                yield Import(file, node.lineno, base, lazy)


def complain(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_every_module_belongs_to_a_layer() -> None:
    """A module or package that no layer names would escape the rules, so there is none."""
    unknown = {layer_of(file) for file, _ in sources()} - set(MAY_IMPORT)
    assert not unknown, f"say in MAY_IMPORT what these may import: {sorted(unknown)}"


def test_imports_point_down() -> None:
    """A layer imports only itself and the layers below it, inside functions as well."""
    complain(
        [
            f"{item}: {item.layer} may not import {item.target}"
            for item in imports()
            if item.target not in (None, item.layer, "__init__") and item.target not in MAY_IMPORT[item.layer]
        ]
    )


def test_adapters_never_import_one_another() -> None:
    """What the engine ties together is tied together nowhere else."""
    complain(
        [
            str(item)
            for item in imports()
            if item.layer in ADAPTERS and item.target in ADAPTERS and item.target != item.layer
        ]
    )


def test_only_the_command_line_imports_the_daemon() -> None:
    """The composition root is at the top."""
    complain([str(item) for item in imports() if item.target == "daemon" and item.layer not in ("daemon", "cli")])


def test_pure_layers_import_nothing_impure() -> None:
    """errors, model, policy and catalogue know no clock, no file, no process and no socket."""
    complain(
        [
            str(item)
            for item in imports()
            if item.layer in PURE
            and item.file not in MAY_READ_FILES
            and item.module.split(".")[0] in IMPURE_MODULES - {"pathlib"}
        ]
    )


def test_pure_layers_call_nothing_impure() -> None:
    """No pure module opens a file, prints, or asks what time it is."""
    problems = []
    for file, tree in sources():
        if layer_of(file) not in PURE or file in MAY_READ_FILES:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if (isinstance(called, ast.Name) and called.id in IMPURE_CALLS) or (
                isinstance(called, ast.Attribute) and called.attr in IMPURE_ATTRIBUTES
            ):
                problems.append(f"agentd/{file}:{node.lineno}: {ast.unparse(called)}()")
    complain(problems)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("ctypes", ("kernel/", "calls/compile.py")),  # the latter is a program of its own, for another interpreter
        ("yaml", ("policy/source.py",)),
        ("bcc", ("calls/compile.py",)),
        ("elftools", ("calls/elf.py",)),
        ("cryptography", ("audit/",)),
        ("opentelemetry", ("audit/sinks/otlp.py",)),
        ("click", ("cli/",)),
        ("rich", ("cli/",)),
        ("aiohttp", ("daemon/console/app.py",)),
        ("prometheus_client", ("metrics.py", "metrics/")),
        ("pyroute2", ("kernel/", "workloads/")),
    ],
)
def test_a_library_is_known_in_one_place(module: str, allowed: tuple[str, ...]) -> None:
    """Each library with a strong flavour is imported by the one part that is about it."""
    complain(
        [str(item) for item in imports() if item.module.split(".")[0] == module and not item.file.startswith(allowed)]
    )


def test_importing_makes_no_cycle() -> None:
    """No module imports itself through others while it is being imported."""
    modules = dict(sources())
    graph: dict[str, set[str]] = {}
    for file, tree in modules.items():
        graph[file] = set()
        for item in imports_of(file, tree):
            if item.lazy or item.target is None:
                continue
            path = "/".join(item.module.split(".")[1:])
            target = f"{path}.py" if f"{path}.py" in modules else f"{path}/__init__.py".lstrip("/")
            graph[file].add(target)
    done: set[str] = set()

    def visit(file: str, trail: tuple[str, ...]) -> None:
        if file in trail:
            pytest.fail(" -> ".join((*trail[trail.index(file) :], file)))
        if file in done or file not in graph:
            return
        for target in sorted(graph[file] - {file}):
            visit(target, (*trail, file))
        done.add(file)

    for file in sorted(graph):
        visit(file, ())


def test_the_reader_of_imports_sees_them_all() -> None:
    """The rules above see absolute, relative, `from agentd import`, and lazy imports."""
    code = (
        "import os.path\nfrom . import ir\nfrom ..model import Op\nfrom agentd import kernel\n"
        "def f():\n    import time\n"
    )
    seen = {(item.module, item.lazy) for item in imports_of("policy/resolve.py", ast.parse(code))}
    assert seen == {
        ("os.path", False),
        ("agentd.policy", False),
        ("agentd.model", False),
        ("agentd.kernel", False),
        ("time", True),
    }
