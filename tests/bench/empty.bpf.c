// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The least that a look at every system call can cost: a program at sys_exit that does nothing. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tp_btf/sys_exit")
int empty(void *ctx)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
