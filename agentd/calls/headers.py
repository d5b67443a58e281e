"""What bcc includes of the kernel's headers, as far as a fetcher needs it: nearly nothing.

bcc asks for a tree of kernel headers, which agent hosts don't have. Its own prologue (helpers.h of bcc 0.26) includes
a dozen files and uses a handful of types of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_TYPES: Final = """\
#ifndef AGENTD_KCONFIG_H
#define AGENTD_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
#define PAGE_SIZE 4096
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef u8 __u8;
typedef u16 __u16, __be16, __sum16;
typedef u32 __u32, __be32, __wsum;
typedef u64 __u64, __be64;
typedef u64 __attribute__((aligned(8))) __aligned_u64;
#define __always_inline inline __attribute__((always_inline))
typedef s8 __s8;
typedef s16 __s16;
typedef s32 __s32;
typedef s64 __s64;
typedef __SIZE_TYPE__ size_t;
typedef unsigned long uintptr_t;
typedef unsigned short umode_t;
#define bool _Bool
#define true 1
#define false 0
#define NULL ((void *)0)
#endif
"""

# struct pt_regs of x86-64, as arch/x86/include/asm/ptrace.h names its registers.
_PTRACE: Final = """\
#ifndef AGENTD_PTRACE_H
#define AGENTD_PTRACE_H
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#endif
"""

_FILES: Final = {
    "linux/kconfig.h": _TYPES,
    "uapi/linux/ptrace.h": _PTRACE,
    **dict.fromkeys(
        (
            "linux/bpf.h", "linux/bpf_common.h", "linux/if_packet.h", "linux/log2.h", "linux/sched.h", "linux/types.h",
            "linux/version.h",
            "uapi/linux/bpf.h", "uapi/linux/if_packet.h", "asm/page.h",
        ),
        "",
    ),
}  # fmt: skip


def write_headers(folder: Path) -> None:
    """Writes the tree below `folder`/include."""
    for name, text in _FILES.items():
        path = folder / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
