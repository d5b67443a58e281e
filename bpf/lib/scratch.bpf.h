/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Work buffers. A path needs 4 KiB and the stack has 512 bytes; a per-CPU buffer would be shared with whatever preempts
 * this program. So: a pool, taken with a compare-and-swap and given back before the program ends (a BPF program always
 * runs to its end). When all are taken the caller denies.
 */
#ifndef AGENTD_SCRATCH_BPF_H
#define AGENTD_SCRATCH_BPF_H

#include "maps.bpf.h"

#define NO_SLOT 0xffffffffu

static __always_inline struct scratch *scratch_get(u32 slot)
{
	slot &= SCRATCH_MASK;
	return bpf_map_lookup_elem(&scratch, &slot);
}

static long scratch_try(u32 i, u32 *taken)
{
	u32 slot = (*taken + i) & SCRATCH_MASK;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);

	if (!s || __sync_val_compare_and_swap(&s->busy, 0, 1) != 0)
		return 0;
	s->set = 0;
	s->targets = 0;
	s->split = 0;
	s->seen.look.stamp = 0;
	s->hit = 0;
	s->netns = 0;
	s->resolver = 0;
	s->names.kept = 0;
	*taken = slot | 0x10000;
	return 1;
}

static __always_inline u32 scratch_taken(u32 taken)
{
	if (taken & 0x10000)
		return taken & SCRATCH_MASK;
	stat_add(AGENTD_STAT_SCRATCH, 1);
	return NO_SLOT;
}

/* A slot number, or NO_SLOT: then deny. Starts at the CPU's own slot, so that CPUs do not meet. */
static __always_inline u32 scratch_take(void)
{
	u32 taken = bpf_get_smp_processor_id() & SCRATCH_MASK;

	if (!scratch_try(0, &taken))
		bpf_loop(SCRATCH_SLOTS, scratch_try, &taken, 0);
	return scratch_taken(taken);
}

static __always_inline void scratch_give(u32 slot)
{
	struct scratch *s = scratch_get(slot);

	if (s) /* an atomic exchange: every store to the buffer is done before it is free */
		__sync_lock_test_and_set(&s->busy, 0);
}

#define NO_ARGC 0xffffffffu /* they end where `args_end` says */

/* Arguments in the current address space. */
static __always_inline void program_here(struct scratch *s, u64 args, u64 args_end)
{
	s->program.pgd = 0;
	s->program.args = args;
	s->program.args_end = args_end;
	s->program.argc = NO_ARGC;
}

/* An object that is a word (`inet:raw`): scratch->path as path_resolve() leaves it. Returns its length. */
#define word_set(s, word) word_put(s, word, sizeof(word) - 1)

static __always_inline u32 word_put(struct scratch *s, const char *word, u32 len)
{
	u32 off = AGENTD_PATH_MAX - len;

	__builtin_memcpy(&s->path[off], word, len);
	s->path_off = off;
	return len;
}

#endif
