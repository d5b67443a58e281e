"""Compiles a fetcher for each function and puts it where the kernel side looks for it. A program of its own.

Run with the system's interpreter, which has bcc (`python3 compile.py FETCHERS CALLED HEADERS`; the first two are
inherited descriptors of the maps), and the functions as JSON on standard input. It holds a compiler of some 120 MB
for a second or two and ends; what it has compiled stays in the map. One line of JSON comes back: {"error": ""} or
what went wrong.

A fetcher takes the text's address, and its length if it has one, out of the registers of the caller, notes them, and
goes on to the judge. It fails closed: a full map, or no judge, ends the process.
"""

import ctypes
import json
import os
import sys
from typing import Any

PROLOGUE = """
#include <uapi/linux/ptrace.h>
struct called { u32 call, flags; u64 text, len, stream; };
"""

FETCHER = """
int fetch_{number}(struct pt_regs *ctx)
{{
	struct called c = {{ .call = {number}, .flags = {flags}, .text = PT_REGS_PARM{argument}(ctx) }};
	u32 thread = bpf_get_current_pid_tgid();
	{length}
	{stream}
	if (!bpf_map_update_elem_(bpf_pseudo_fd(1, {called}), &thread, &c, 0))
		bpf_tail_call_(bpf_pseudo_fd(1, {fetchers}), ctx, 0);
	bpf_send_signal(9);
	return 0;
}}
"""

STRING, LIMIT = 1, 2  # AGENTD_CALLED_*


def source(function: dict[str, Any], fetchers: int, called: int) -> str:
    """The C of one fetcher."""
    flags = STRING if function["string"] else 0
    length = ""
    if function["length"]:
        register = f"PT_REGS_PARM{function['length']}(ctx)"
        if not function["signed"]:
            length = f"c.len = {register};"
            flags |= LIMIT if flags else 0
        elif function["string"]:  # a negative one means up to the NUL
            length = f"s32 most = {register}; if (most >= 0) {{ c.len = most; c.flags |= {LIMIT}; }}"
        else:
            length = f"s32 most = {register}; c.len = most > 0 ? most : 0;"
    stream = f"c.stream = PT_REGS_PARM{int(function['stream'])}(ctx);" if function["stream"] else ""
    return FETCHER.format(
        number=int(function["number"]), argument=int(function["argument"]), flags=flags, length=length, stream=stream,
        fetchers=fetchers, called=called,
    )  # fmt: skip


def compile_all(functions: list[dict[str, Any]], fetchers: int, called: int) -> str:
    """Compiles, loads and places every fetcher; what went wrong, or nothing."""
    try:
        from bcc import BPF, lib
    except ImportError as error:
        return f"bcc is not installed ({error})"
    try:
        program = BPF(text=PROLOGUE + "".join(source(one, fetchers, called) for one in functions))
        for one in functions:
            loaded = program.load_func(f"fetch_{one['number']}", BPF.KPROBE)
            key, value = ctypes.c_uint32(one["number"]), ctypes.c_uint32(loaded.fd)
            if lib.bpf_update_elem(fetchers, ctypes.byref(key), ctypes.byref(value), 0):
                return f"the fetcher of {one['word']} was not taken: {os.strerror(ctypes.get_errno())}"
    except Exception as error:  # noqa: BLE001  bcc raises this very class
        return str(error)
    return ""


def main() -> None:
    """See the top of this file."""
    fetchers, called, headers = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ["BCC_KERNEL_SOURCE"] = headers  # a host has no headers of its kernel, and the fetchers need none
    json.dump({"error": compile_all(json.load(sys.stdin), fetchers, called)}, sys.stdout)


if __name__ == "__main__":
    main()
