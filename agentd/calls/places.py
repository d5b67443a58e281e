"""Where the functions of a library stand in a file that a workload brings along: found by a helper without privileges
(elf.py), because what a workload makes should meet no parser that runs as root.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HELPER: Final = Path(__file__).with_name("elf.py")
SECONDS: Final = 60  # a busy host; the helper limits itself


def places(file: str, functions: Iterable[str]) -> dict[str, list[int]]:
    """Function -> its places, in bytes from the beginning of the file; none for what it has not.

    Raises ValueError: the file can't be read as ELF64.
    """
    found = importlib.util.find_spec("elftools")
    folder = Path(found.origin).parents[1] if found and found.origin else Path()
    command = [sys.executable, "-I", "-S", str(HELPER), str(folder), *functions]
    try:
        with open(file, "rb") as opened:
            done = subprocess.run(command, stdin=opened, capture_output=True, text=True, timeout=SECONDS, check=True)
        return {name: [*map(int, at)] for name, at in json.loads(done.stdout).items()}
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise ValueError(said[-1] if said else f"the helper ended with {error.returncode}") from None
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error
