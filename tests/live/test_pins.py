"""Taking away what is pinned, also where the folder itself can't go."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.kernel.libbpf import mount, unmount
from agentd.kernel.pins import remove_pins

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
