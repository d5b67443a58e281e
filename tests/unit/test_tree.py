"""Rules for the source tree as a whole: error codes, file sizes, docstrings, dependencies, what README promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import __version__
from agentd.errors import CODES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agentd"

MAX_LINES = 400
# path: why it is longer
LONG_FILES: dict[str, str] = {
    "agentd/kernel/canary.py": "a program of its own, which imports the standard library only",
    "agentd/kernel/abi.py": "the other half of bpf/abi.h",
    "bpf/abi.h": "the one contract between the two sides",
}

# Codes whose part isn't written yet.
CODES_FOR_LATER = {
    "approval-answered",
    "audit-corrupt",
    "audit-locked",
    "audit-unwritable",
    "command-not-executable",
    "command-not-found",
    "config-invalid",
    "enforcement-lost",
    "kernel-load",
    "kernel-map",
    "kernel-unsupported",
    "no-such-approval",
    "no-such-process",
    "not-permitted",
    "not-root",
    "policy-too-large",
    "service-refused",
    "service-running",
    "service-unreachable",
    "unknown-agent",
    "usage",
}

# import name -> distribution, where they differ
DISTRIBUTIONS = {
    "elftools": "pyelftools",
    "yaml": "pyyaml",
    "prometheus_client": "prometheus-client",
    "opentelemetry": "opentelemetry-sdk",
}
FROM_DEBIAN = {"bcc"}
# distributions that are declared before the part that imports them
DECLARED_FOR_LATER = {"click", "prometheus-client", "psutil", "pyroute2", "rich"}


def tracked() -> Iterator[Path]:
    """The files that git knows or would take."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    for name in sorted(filter(None, listing.decode("utf-8").split("\0"))):
        if (ROOT / name).is_file():
            yield ROOT / name


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in tracked():
        if path.suffix == ".py" and path.is_relative_to(PACKAGE):
            yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path, line: int = 0) -> str:
    name = path.relative_to(ROOT).as_posix()
    return f"{name}:{line}" if line else name


def complain(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def error_classes() -> set[str]:
    """AgentdError and every class in agentd/ that derives from it, by name."""
    bases: dict[str, set[str]] = {}
    for _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).split(".")[-1] for base in node.bases}
    found = {"AgentdError"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def test_every_code_that_is_raised_is_registered() -> None:
    """A literal code given to AgentdError is one of errors.CODES."""
    problems = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "AgentdError" and node.args
            ):
                continue
            code = node.args[0]
            if isinstance(code, ast.Constant) and code.value not in CODES:
                problems.append(f"{place(path, node.lineno)}: {code.value!r} is not in errors.CODES")
    complain(problems)


def test_every_registered_code_is_used() -> None:
    """A code that nothing raises is a promise to the metrics that nobody keeps."""
    strings = {
        node.value
        for path, tree in modules()
        if path != PACKAGE / "errors.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    complain([f"{code}: nothing raises it" for code in sorted(CODES - strings - CODES_FOR_LATER)])


def test_no_file_is_too_long() -> None:
    """A file over 400 lines has its reason written down, and a reason has such a file."""
    long = {}
    for path in tracked():
        if path.suffix in (".py", ".c", ".h") or path.name in ("dev", "run"):
            lines = path.read_bytes().count(b"\n")
            if lines > MAX_LINES:
                long[place(path)] = lines
    complain([f"{name}: {lines} lines; split it" for name, lines in sorted(long.items()) if name not in LONG_FILES])
    complain([f"{name}: no longer too long" for name in sorted(set(LONG_FILES) - set(long))])


def test_every_module_says_what_it_is_for() -> None:
    """A module that isn't empty starts with a docstring."""
    complain([place(path) for path, tree in modules() if tree.body and not ast.get_docstring(tree)])


def test_what_is_public_is_explained() -> None:
    """A public function or class that isn't obvious from a few lines has a docstring; a record's fields speak."""
    problems = []
    for path, tree in modules():
        for node in tree.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            plain = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
            size = (node.end_lineno or node.lineno) - node.lineno
            if size > 5 and not plain and not ast.get_docstring(node):
                problems.append(f"{place(path, node.lineno)}: {node.name}")
    complain(problems)


def test_every_test_says_what_behaviour_it_is_about() -> None:
    """Every test has a docstring."""
    problems = []
    for path in tracked():
        if not (path.is_relative_to(ROOT / "tests") and path.name.startswith("test_") and path.suffix == ".py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                if not ast.get_docstring(node):
                    problems.append(f"{place(path, node.lineno)}: {node.name}")
    complain(problems)


def test_nothing_is_left_to_do_in_the_code() -> None:
    """No marker of unfinished work, and no path of the machine it was written on."""
    words = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b|NotImplemented" + "Error")
    here = str(ROOT) if len(ROOT.parts) > 2 else None
    problems = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if path.parts[-2] != "LICENSES" and words.search(line):
                problems.append(f"{place(path, number)}: {line.strip()}")
            if here and here in line:
                problems.append(f"{place(path, number)}: names the directory of this tree")
    complain(problems)


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return {re.split(r"[<>=~! \[]", item)[0].lower() for item in wanted}


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in pins}


def test_what_is_imported_is_declared() -> None:
    """agentd imports the standard library, what pyproject.toml declares, and bcc; and it declares nothing else."""
    imported: dict[str, str] = {}
    for path, tree in modules():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                if top != "agentd" and top not in sys.stdlib_module_names | FROM_DEBIAN:
                    imported[DISTRIBUTIONS.get(top, top)] = place(path, node.lineno)
    unknown = set(imported) - declared("otlp", "console")
    complain([f"{imported[name]}: {name} is not declared in pyproject.toml" for name in sorted(unknown)])
    complain(
        [f"{name}: declared, imported nowhere" for name in sorted(declared() - set(imported) - DECLARED_FOR_LATER)]
    )


def test_what_is_declared_is_locked() -> None:
    """Every dependency has its one version in requirements.lock."""
    complain(sorted(declared("otlp", "test", "lint", "vm") - set(locked())))


def test_every_dependency_has_its_reason() -> None:
    """DECISIONS.md says of each thing that agentd depends on why it is there."""
    text = (ROOT / "DECISIONS.md").read_text(encoding="utf-8").lower()
    complain([name for name in sorted(declared("otlp", "test", "lint", "vm")) if name not in text])


def test_the_version_is_written_once() -> None:
    """pyproject.toml takes the version from the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_what_the_readme_tells_to_run_exists() -> None:
    """The jobs of ./dev that README and CONTRIBUTING name exist, and the first two lines are the demo and the tests."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^    (\./dev \w+)", text, re.MULTILINE) == ["./dev demo", "./dev test"]
    jobs = set(re.findall(r"^job_(\w+)\(\)", (ROOT / "dev").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\./dev (\w+)", text + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert named <= jobs | {"help"}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "DECISIONS.md", "CHANGELOG.md", "SECURITY.md"])
def test_documents_link_to_files_that_exist(name: str) -> None:
    """A relative link in a document leads somewhere."""
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    complain([target for target in targets if not (ROOT / target).exists()])
