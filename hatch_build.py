"""Puts the shipped policies and the compiled BPF objects into the wheel, and refuses to build one without them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OBJECTS = ("agentd.bpf.o", "calls.bpf.o", "canary.bpf.o", "symbols.bpf.o")  # probe.bpf.o is for tests only


class ShareHook(BuildHookInterface):  # type: ignore[type-arg]
    """Fills agentd/_share (see agentd/resources.py); an editable install reads the source tree instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        missing = [name for name in OBJECTS if not (root / "bpf" / "build" / name).is_file()]
        if missing:
            raise SystemExit(
                f"agentd wheel: bpf/build/{missing[0]} is not built; run ./dev build (or make -C bpf) first"
            )
        if not any((root / "policies").glob("*")):
            raise SystemExit("agentd wheel: policies/ is empty; build from a complete source tree")
        build_data["force_include"][str(root / "policies")] = "agentd/_share/policies"
        for name in OBJECTS:
            build_data["force_include"][str(root / "bpf" / "build" / name)] = f"agentd/_share/bpf/{name}"
        automata = root / "bpf" / "build" / "automata"
        if not automata.is_dir():
            raise SystemExit("agentd wheel: bpf/build/automata is not built; run ./dev build first")
        build_data["force_include"][str(automata)] = "agentd/_share/automata"
        # The objects read this architecture's registers, so the wheel is not for any other.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
