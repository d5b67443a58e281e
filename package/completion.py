"""Completions for shells, as click makes them: each asks `agentd` itself what can follow."""

from __future__ import annotations

from typing import Final

from click.shell_completion import get_completion_class

from agentd.cli import main

PLACES: Final = {
    "bash": "usr/share/bash-completion/completions/agentd",
    "zsh": "usr/share/zsh/vendor-completions/_agentd",
    "fish": "usr/share/fish/vendor_completions.d/agentd.fish",
}


def scripts() -> dict[str, str]:
    """Where each one goes, and its text."""
    made = {}
    for shell, place in PLACES.items():
        kind = get_completion_class(shell)
        assert kind is not None
        made[place] = kind(main, {}, "agentd", "_AGENTD_COMPLETE").source() + "\n"
    return made
