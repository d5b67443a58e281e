"""The arena that a start guesses before it has read the policy: too small, and the kernel verifies everything twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.engine.policies import compile_policy
from agentd.kernel import prepare
from agentd.kernel.prepare import MAX_ARENA_WORDS, MIN_ARENA_WORDS, SERVICE_PINS, arena_guess, remember_arena
from agentd.policy.resolve import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("policy", ["policies/coding-agent.yaml", "vagrant/demo/20-demo.yaml"])
def test_a_shipped_policy_wants_what_is_guessed(policy: str) -> None:
    """A first start with one agent is prepared once."""
    assert compile_policy(load(ROOT / policy, workspace="/")).arena_words() <= MIN_ARENA_WORDS


def test_the_service_remembers_what_its_policy_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start guesses that, but for another folder of pins, and not what nobody could have written."""
    monkeypatch.setattr(prepare, "ARENA_FILE", tmp_path / "arena-words")
    assert arena_guess(SERVICE_PINS) == MIN_ARENA_WORDS
    remember_arena(Path("/sys/fs/bpf/other"), 1 << 22)
    assert arena_guess(SERVICE_PINS) == MIN_ARENA_WORDS
    for words in (1 << 22, 1 << 20, MIN_ARENA_WORDS):
        remember_arena(SERVICE_PINS, words)
        assert arena_guess(SERVICE_PINS) == words
    assert arena_guess(Path("/sys/fs/bpf/other")) == MIN_ARENA_WORDS
    for text in ("", "x", "-4194304", "0", str(MAX_ARENA_WORDS * 2), "4194305", "9" * 100_000, "\udcff"):
        (tmp_path / "arena-words").write_bytes(text.encode("utf-8", "surrogateescape"))
        assert arena_guess(SERVICE_PINS) == MIN_ARENA_WORDS, text[:20]


def test_a_start_goes_on_where_it_can_not_be_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full or read-only disk the next start takes longer, and this one does not fail."""
    monkeypatch.setattr(prepare, "ARENA_FILE", tmp_path / "no-such-folder" / "arena-words")
    remember_arena(SERVICE_PINS, 1 << 22)
    assert arena_guess(SERVICE_PINS) == MIN_ARENA_WORDS
