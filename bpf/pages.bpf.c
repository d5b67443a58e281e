// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Reading an address space that nobody runs in yet: the arguments of a program that execve has copied and not started
 * (fs/exec.c, copy_strings). No helper reads another mm, so its page tables are walked here and the page is read through
 * the kernel's direct map. x86-64, four or five levels.
 *
 * Trusted: page tables, which only the kernel writes. Nobody else can reach the new mm, so what is read is what will run.
 * Races: the page may be swapped out while it is read; the entry is looked at again afterwards, and another one is a
 * failure. Fails: to "could not be read", and with it the exec where an argument could decide.
 */
#include "lib/scratch.bpf.h"

#define PAGE_BITS 12
#define PAGE_BYTES (1 << PAGE_BITS)
#define TABLE_BITS 9
#define ENTRY_PRESENT 1ull
#define ENTRY_LARGE 0x80ull

/* The entry for `address` in the table at a kernel address, `shift` bits down. 0: none, or unreadable. */
static __always_inline u64 table_entry(u64 table, u64 address, u32 shift)
{
	u64 entry = 0, index = (address >> shift) & ((1 << TABLE_BITS) - 1);

	if (bpf_probe_read_kernel(&entry, sizeof(entry), (void *)(table + index * sizeof(entry))))
		return 0;
	return entry & ENTRY_PRESENT ? entry : 0;
}

static __always_inline u64 in_direct_map(u64 entry)
{
	return constants.direct_map + (entry & constants.frame_mask);
}

/* The entry of the 4 KiB page of `address`. 0: not mapped, or not so. */
static __noinline u64 page_entry(u64 pgd, u64 address)
{
	u64 entry, table = pgd;
	int level;

	for (level = 0; level < 5; level++) {
		u32 shift = PAGE_BITS + TABLE_BITS * (4 - level);

		if (shift > constants.top_shift)
			continue; /* four levels: the fifth is not there */
		entry = table_entry(table, address, shift);
		if (level == 4)
			return entry;
		if (!entry || entry & ENTRY_LARGE)
			return 0;
		table = in_direct_map(entry);
	}
	return 0;
}

/*
 * Reads at most one page, up to its end, into scratch->path. Returns how much, at most `most`; 0: unreadable. The stack of
 * arguments is made of ordinary pages.
 */
static __noinline u32 page_read(struct scratch *s, u64 pgd, u64 address, u64 most)
{
	u64 entry, left = PAGE_BYTES - (address & (PAGE_BYTES - 1));
	u32 n = left < most ? left : most;

	if (!constants.direct_map || !constants.top_shift)
		return 0;
	entry = page_entry(pgd, address);
	if (!entry || !n)
		return 0;
	if (bpf_probe_read_kernel(s->path, bounded(n, 2 * PAGE_BYTES - 1),
				  (void *)(in_direct_map(entry) + (address & (PAGE_BYTES - 1)))))
		return 0;
	return page_entry(pgd, address) == entry ? n : 0;
}
