"""Where the files that ship beside the code are: compiled BPF objects, automata, the catalogue, the ready policies."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _share(name: str, in_source_tree: str) -> Path:
    installed = _PACKAGE / "_share" / name
    return installed if installed.is_dir() else _PACKAGE.parent / in_source_tree


def policies_dir() -> Path:
    """The folder with the shipped catalogue and the ready policies."""
    return _share("policies", "policies")


def bpf_object(name: str) -> Path:
    """The compiled BPF object `name` (`agentd.bpf.o`); it may not exist in a source tree that was never built."""
    return _share("bpf", "bpf/build") / name


def automata_dir() -> Path:
    """The folder with the compiled automata of the shipped catalogue; it may not exist (then they are compiled)."""
    return _share("automata", "bpf/build/automata")


def monitoring_dir() -> Path:
    """The folder with what Prometheus and Grafana are given: configuration, rules, alerts, dashboards."""
    return _PACKAGE / "monitoring"
