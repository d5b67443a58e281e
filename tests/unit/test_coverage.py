"""The one source of what is claimed about guarantees, and everything that is made of it."""

from __future__ import annotations

from pathlib import Path

from agentd.engine import coverage
from agentd.kernel import hooks
from agentd.model import Guarantee, Op, Point

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_shows_the_generated_table() -> None:
    """README's table of guarantees is word for word the one that is generated."""
    assert coverage.markdown() in README.read_text(encoding="utf-8"), "put in what coverage.markdown() gives"


def test_every_operation_has_its_kinds() -> None:
    """Each operation has one kind of its own, and it stands before its parts; no name is given twice."""
    for op in Op:
        mine = [kind for kind in coverage.KINDS if kind.op is op]
        assert [kind.part for kind in mine].count("") == 1 and mine[0].part == "", op
    assert len({kind.name for kind in coverage.KINDS}) == len(coverage.KINDS)


def test_a_part_that_hooks_do_not_see_stays_with_its_point() -> None:
    """With hooks for everything, what they can't see is claimed at the guarantee it has without them."""
    with_hooks = coverage.of_host(Point.LSM, set(Op))
    without = coverage.of_host(Point.NONE, ())
    for one, other in zip(with_hooks, without, strict=True):
        if one.kind.hooks:
            assert (one.point, one.guarantee) == (Point.LSM, Guarantee.PREVENTED)
        else:
            assert (one.point, one.guarantee) == (other.point, other.guarantee)


def test_every_operation_that_hooks_prevent_is_claimed_so() -> None:
    """An operation that some LSM hook judges has a kind that says so, and the other way round."""
    assert hooks.prevented({hook.program for hook in hooks.LSM_HOOKS}) == {
        kind.op for kind in coverage.KINDS if kind.hooks
    }


def test_the_words_lead_with_the_operation_as_such() -> None:
    """The guarantee in words begins with that of the main kind and names the parts that differ."""
    covers = coverage.of_host(Point.NONE, ())
    assert coverage.in_words(covers, Op.READ) == "contained (detected: shared descriptors)"
    assert coverage.worst(covers, Op.READ).guarantee is Guarantee.DETECTED
    assert coverage.in_words(covers, Op.CONNECT) == "prevented"
