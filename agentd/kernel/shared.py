"""What the LSM hooks share: one program that takes the place of a function in each of them (bpf/lib/shared.bpf.h).

The verifier looks at it once, and not once a hook, for which it is loaded as if for the function of a stand-in
(bpf/canary.bpf.c). A link a hook holds it in its place; until there is one the hook denies.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agentd.kernel import lsm
from agentd.kernel.hooks import Hook, LsmHook
from agentd.kernel.libbpf import LinkCreateOpts, check, library, obj_pin, pointer
from agentd.kernel.pins import shared_pin
from agentd.model import Point

PROGRAM: Final = "shared_by_hooks"
FUNCTION: Final = b"shared"
BTF_KIND_FUNC: Final = 12  # linux/btf.h


def choose(obj: int, kind: Point) -> None:
    """Marks the program in an object that isn't loaded yet, whose hooks are of this kind. Raises KernelError."""
    lib = library()
    program = pointer(lib.bpf_object__find_program_by_name(obj, PROGRAM.encode()), PROGRAM)
    target = lib.bpf_program__set_attach_target(program, lsm.stand_in(kind), FUNCTION)
    check(target, PROGRAM, "kernel-load")
    check(lib.bpf_program__set_autoload(program, True), PROGRAM, "kernel-load")


def attach(obj: int, hooks: Iterable[Hook | LsmHook]) -> dict[str, int]:
    """Puts it in its place in every LSM hook of a loaded object: a link's descriptor a hook, or none at all.

    Raises KernelError.
    """
    lib = library()
    sharing = [hook.program for hook in hooks if isinstance(hook, LsmHook) and hook.shares]
    links: dict[str, int] = {}
    if not sharing:
        return links
    found = pointer(lib.bpf_object__find_program_by_name(obj, PROGRAM.encode()), PROGRAM)
    function = lib.btf__find_by_name_kind(lib.bpf_object__btf(obj), FUNCTION, BTF_KIND_FUNC)
    opts = LinkCreateOpts(sz=ctypes.sizeof(LinkCreateOpts), target_btf_id=check(function, PROGRAM, "kernel-load"))
    try:
        for name in sharing:
            target = pointer(lib.bpf_object__find_program_by_name(obj, name.encode()), name)
            link = lib.bpf_link_create(lib.bpf_program__fd(found), lib.bpf_program__fd(target), 0, ctypes.byref(opts))
            links[name] = check(link, f"attach {PROGRAM} to {name}", "kernel-load")
    except BaseException:
        close(links)
        raise
    return links


def pin(pins: Path, links: dict[str, int], epoch: int) -> None:
    """Makes them stay as long as the hooks do."""
    for name, link in links.items():
        obj_pin(link, shared_pin(pins, name, epoch))


def close(links: dict[str, int]) -> None:
    """Lets go of the descriptors."""
    for link in links.values():
        os.close(link)
    links.clear()
