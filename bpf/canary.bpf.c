// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Does a hook run on this host? Loaded as `lsm` or as `fmod_ret`, attached, and told whose open to look for; user space opens
 * a file and reads `seen` (agentd/kernel/lsm.py). A kernel without `bpf` among its security modules loads and attaches
 * `lsm` programs and never runs them.
 */
#include "lib/shared.bpf.h"

struct canary {
	u32 tgid;
	u32 seen;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct canary);
} canary SEC(".maps");

SEC("lsm/file_open")
int BPF_PROG(canary_open, struct file *file)
{
	u32 zero = 0;
	struct canary *c = bpf_map_lookup_elem(&canary, &zero);

	if (c && c->tgid == bpf_get_current_pid_tgid() >> 32)
		__sync_fetch_and_add(&c->seen, 1);
	return 0;
}

/* What is made to take the place of shared() in the hooks is loaded for this one. Attached to nothing. */
SEC("lsm/file_open")
int BPF_PROG(canary_shared, struct file *file)
{
	return shared_answer(0, 0, 0, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
