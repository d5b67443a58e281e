"""Where the functions and USDT probes of a library stand in a file that a workload brings along: found by a helper
without privileges (elf.py), because what a workload makes should meet no parser that runs as root.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

HELPER: Final = Path(__file__).with_name("elf.py")
SECONDS: Final = 10  # of CPU time for one file, which a workload may have made
STARTING: Final = 120  # the same for the host's own files while nobody waits: 100 MB on an emulated processor
BUSY: Final = 6  # so many times as much on a busy host
MOST: Final = 512  # places in one file: each is a probe


class Place(NamedTuple):
    """In bytes from the file's beginning. Of a USDT probe: where the counter is that has to be raised for the program
    to come by (0: it has none), and where its arguments lie (operands.py). Of a function: the size of its code in
    bytes (0: the file doesn't say).
    """

    at: int
    counter: int = 0
    arguments: str = ""
    size: int = 0


def places(file: str, names: Iterable[str], seconds: int = SECONDS) -> dict[str, list[Place]]:
    """Name -> its places; none for what the file has not. A name is a function's, or PROVIDER:NAME of a USDT probe.

    seconds: of CPU time that it may take. Raises ValueError: the file can't be read as ELF64.
    """
    found = importlib.util.find_spec("elftools")
    folder = Path(found.origin).parents[1] if found and found.origin else Path()
    command = [sys.executable, "-I", "-S", str(HELPER), str(folder), str(seconds), *names]
    try:
        with open(file, "rb") as opened:
            done = subprocess.run(
                command, stdin=opened, capture_output=True, text=True, timeout=seconds * BUSY, check=True
            )
        made = {
            name: [Place(int(at), int(counter), str(arguments), int(size)) for at, counter, arguments, size in where]
            for name, where in json.loads(done.stdout).items()
        }
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise ValueError(said[-1] if said else f"the helper ended with {error.returncode}") from None
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error
    if sum(map(len, made.values())) > MOST:
        raise ValueError(f"it has what is asked for at more than {MOST} places")
    return made
