"""Taking away what is pinned, also where the folder itself can't go."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.kernel import pins as module
from agentd.kernel.libbpf import mount, unmount
from agentd.kernel.pins import drop_stale_links, remove_pins, shared_pin, unpin_links

pytestmark = pytest.mark.root


def lay(pins: Path) -> None:
    for name in ("links", "maps"):
        (pins / name).mkdir(parents=True)
        (pins / name / "one").touch()
    (pins / "tasks").touch()


def test_a_folder_that_is_a_mount_stays_and_is_empty(tmp_path: Path) -> None:
    """In the service's sandbox the folder of the pins is mounted on its own: all in it goes, and that is no error."""
    pins = tmp_path / "agentd"
    pins.mkdir()
    mount("none", str(pins), "tmpfs")
    try:
        lay(pins)
        remove_pins(pins)
        assert [*pins.iterdir()] == []
    finally:
        unmount(str(pins))
    lay(pins)
    remove_pins(pins)
    assert not pins.exists(), "control: elsewhere it goes too"


def test_what_should_not_be_there_is_an_error(tmp_path: Path) -> None:
    """A folder that isn't empty after all is said, not passed over."""
    pins = tmp_path / "agentd"
    lay(pins)
    (pins / "maps" / "more").mkdir()
    with pytest.raises(OSError, match="not empty"):
        remove_pins(pins)


@pytest.mark.parametrize("way", ["stale", "one epoch", "all"])
def test_what_hooks_share_goes_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A hook without what it shares denies: so its own link goes first, and what was running in it ends."""
    pins = tmp_path / "agentd"
    lay(pins)
    names = ["lsm_file_open", "lsm_bpf", "task_exited"]
    for name in names:
        (pins / "links" / f"{name}-3").touch()
    for name in names[:2]:
        shared_pin(pins, name, 3).touch()
    there: list[set[str]] = []

    def wait() -> None:
        there.append({entry.name for entry in (pins / "links").iterdir()} - {"one"})

    monkeypatch.setattr(module, "wait_for_programs", wait)
    match way:
        case "stale":
            drop_stale_links(pins, 4)
        case "one epoch":
            unpin_links(pins, 3)
        case _:
            remove_pins(pins)
    assert there == [{shared_pin(pins, name, 3).name for name in names[:2]}]
    assert not [*pins.glob("links/*-3")]


def test_what_hooks_share_stays_while_they_are_away(tmp_path: Path) -> None:
    """Detached hooks come back; what is theirs as long as they are loaded stays pinned."""
    lay(tmp_path)
    (tmp_path / "links" / "lsm_bpf-3").touch()
    shared_pin(tmp_path, "lsm_bpf", 3).touch()
    unpin_links(tmp_path, 3, ["lsm_bpf"])
    assert {entry.name for entry in (tmp_path / "links").iterdir()} == {"one", shared_pin(tmp_path, "lsm_bpf", 3).name}
