/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Work buffers for programs that may sleep, for as long as their caller's memory makes them: they are of the first half, so
 * that who does not sleep always finds one of the others; and no workload has more than half of these, so that those it
 * keeps for ever are not all. More are denied.
 */
#ifndef AGENTD_SLEEPER_BPF_H
#define AGENTD_SLEEPER_BPF_H

#include "scratch.bpf.h"

#define SLEEPERS (SCRATCH_SLOTS / 2)
#define SLEEPERS_EACH (SLEEPERS / 2)

struct sleepers {
	u32 workload, found;
};

static long sleeper_count(u32 slot, struct sleepers *all)
{
	struct scratch *s = scratch_get(slot);

	all->found += s && *(volatile u32 *)&s->sleeper == all->workload;
	return 0;
}

static __always_inline void sleeper_give(u32 slot)
{
	struct scratch *s = scratch_get(slot);

	if (s)
		*(volatile u32 *)&s->sleeper = 0;
	scratch_give(slot);
}

/*
 * A slot number, or NO_SLOT: then deny. Whoever takes one says so before it counts: of two at once that would be the last
 * one may be denied without need, but there is never one too many.
 */
static __always_inline u32 sleeper_take(u32 workload)
{
	struct sleepers all = { .workload = workload };
	struct scratch *s;
	u32 taken = 0;

	bpf_loop(SLEEPERS, scratch_try, &taken, 0);
	taken = scratch_taken(taken);
	s = scratch_get(taken);
	if (taken == NO_SLOT || !s)
		return NO_SLOT;
	__sync_lock_test_and_set(&s->sleeper, workload);
	bpf_loop(SLEEPERS, sleeper_count, &all, 0);
	if (all.found <= SLEEPERS_EACH)
		return taken;
	sleeper_give(taken);
	stat_add(AGENTD_STAT_SCRATCH, 1);
	return NO_SLOT;
}

#endif
