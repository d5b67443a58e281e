// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Where this kernel keeps what no type describes: the counters of renames and of mounts, and how memory is mapped. Run once
 * by user space (BPF_PROG_RUN, agentd/kernel/symbols.py), which puts the answers into the constants of agentd.bpf.o.
 *
 * A name that the kernel does not tell (kernel.kptr_restrict=2, another configuration) stays 0, and what needs it does
 * without: nothing is remembered, or arguments can't be read before an exec.
 */
#include "lib/kernel.bpf.h"

struct symbols {
	u64 rename_lock, mount_lock; /* addresses of seqlock_t, fs/dcache.c and fs/namespace.c */
	u64 page_offset_base; /* values; arch/x86/kernel/head64.c, 0: not randomized */
	u64 physical_mask; /* arch/x86/mm/mem_encrypt.c: without the bit that marks encrypted memory */
	u32 pgdir_shift; /* 39, or 48 with five levels */
	u32 found;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct symbols);
} symbols SEC(".maps");

static __always_inline u64 address_of(const char *name, u32 size)
{
	u64 address = 0;

	return bpf_kallsyms_lookup_name(name, size, 0, &address) ? 0 : address;
}

#define ADDRESS(name)                                 \
	({                                            \
		static const char ___name[] = name;   \
		address_of(___name, sizeof(___name)); \
	})

SEC("syscall")
int find_symbols(void *ctx)
{
	u32 zero = 0;
	struct symbols *s = bpf_map_lookup_elem(&symbols, &zero);
	u64 at;

	if (!s)
		return 0;
	s->rename_lock = ADDRESS("rename_lock");
	s->mount_lock = ADDRESS("mount_lock");
	at = ADDRESS("page_offset_base");
	if (at)
		bpf_probe_read_kernel(&s->page_offset_base, sizeof(u64), (void *)at);
	at = ADDRESS("physical_mask");
	if (at)
		bpf_probe_read_kernel(&s->physical_mask, sizeof(u64), (void *)at);
	at = ADDRESS("pgdir_shift");
	if (at)
		bpf_probe_read_kernel(&s->pgdir_shift, sizeof(u32), (void *)at);
	s->found = 1;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
