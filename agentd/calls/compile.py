"""Compiles a fetcher for each function and puts it where the kernel side looks for it. A program of its own.

Run with the system's interpreter, which has bcc (`python3 compile.py FETCHERS CALLED HEADERS`; the first two are
inherited descriptors of the maps), and the functions as JSON on standard input. It holds a compiler of some 120 MB
for a second or two and ends; what it has compiled stays in the map. One line of JSON comes back: {"error": ""} or
what went wrong. It ends with whoever has started it.

A fetcher takes the text's address, and its length if it has one, from where they lie at the probe (operands.py), notes
them, and goes on to the judge. It fails closed: a full map, or no judge, ends the process; an argument in memory that
can't be read becomes a text that can't be read, which is denied.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

PROLOGUE = """
#include <uapi/linux/ptrace.h>
struct called { u32 call, flags; u64 text, len, stream; };
"""

FETCHER = """
int fetch_{number}(struct pt_regs *ctx)
{{
	struct called c = {{ .call = {number}, .flags = {flags} }};
	u32 thread = bpf_get_current_pid_tgid(), lost = 0;
	{reading}
	if (lost) {{
		c.text = 1;
		c.len = 1;
	}}
	if (!bpf_map_update_elem_(bpf_pseudo_fd(1, {called}), &thread, &c, 0))
		bpf_tail_call_(bpf_pseudo_fd(1, {fetchers}), ctx, 0);
	bpf_send_signal(9);
	return 0;
}}
"""

STRING, LIMIT, ENDS = 1, 2, 4  # AGENTD_CALLED_*
REGISTERS = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", *(f"r{n}" for n in range(8, 16)))
SECONDS = 240  # of CPU time; whoever has started it may wait for less (fetchers.py)
PR_SET_PDEATHSIG = 1


def register(name: str) -> str:
    """A register, as C. Raises ValueError."""
    return f"ctx->{REGISTERS[REGISTERS.index(name)]}"


def reading(name: str, operand: dict[str, Any]) -> str:
    """C that declares `name` and reads an argument (operands.py) into it, as wide and as signed as it is."""
    kind = f"{'s' if operand['signed'] else 'u'}{int(operand['size']) * 8}"
    offset = f"{int(operand['offset']) & 0xFFFFFFFFFFFFFFFF:#x}ull"
    if not operand["register"]:
        return f"{kind} {name} = ({kind}){offset};"
    if not operand["memory"]:
        return f"{kind} {name} = ({kind}){register(operand['register'])};"
    address = f"{register(operand['register'])} + {offset}"
    if operand["added"]:
        address += f" + {register(operand['added'])} * {int(operand['scale'])}ull"
    return f"{kind} {name} = 0; lost |= !!bpf_probe_read_user(&{name}, sizeof({name}), (void *)({address}));"


def source(function: dict[str, Any], fetchers: int, called: int) -> str:
    """The C of one fetcher."""
    flags = ENDS if function["closing"] else STRING if function["string"] else 0
    lines = [reading("text", function["text"]), "c.text = text;"]
    if function["length"]:
        lines.append(reading("most", function["length"]))
        if not function["length"]["signed"]:
            lines.append("c.len = most;")
            flags |= LIMIT if flags else 0
        elif function["string"]:  # a negative one means up to the NUL
            lines.append(f"if (most >= 0) {{ c.len = most; c.flags |= {LIMIT}; }}")
        else:
            lines.append("c.len = most > 0 ? most : 0;")
    if function["stream"]:
        lines += [reading("stream", function["stream"]), "c.stream = stream;"]
    return FETCHER.format(
        number=int(function["number"]), flags=flags, reading="\n\t".join(lines), fetchers=fetchers, called=called
    )


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
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def main() -> None:
    """See the top of this file."""
    fetchers, called, headers, parent = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("nobody waits for it")
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    os.environ["BCC_KERNEL_SOURCE"] = headers  # a host has no headers of its kernel, and the fetchers need none
    json.dump({"error": compile_all(json.load(sys.stdin), fetchers, called)}, sys.stdout)


if __name__ == "__main__":
    main()
