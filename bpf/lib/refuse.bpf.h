/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The guard (guard.bpf.h) where it says no before the effect, in LSM hooks. */
#ifndef AGENTD_REFUSE_BPF_H
#define AGENTD_REFUSE_BPF_H

#include "guard.bpf.h"
#include "prevent.bpf.h"

/* The guard says no to an operation on the object `agentd`, whatever the policy says and in whatever mode: -EPERM. */
static __always_inline int guard_refuses(u32 op)
{
	struct agentd_tag *tag = current_tag();
	u32 slot;

	if (!tag)
		return 0;
	if (begin(&slot)) {
		shared(slot, JUDGE_GUARDED, op, 0);
		scratch_give(slot);
	}
	return -EPERM;
}

/* Is that agentd? Then no: 0, or -EPERM, recorded as `ptrace` of `agentd`. */
static __always_inline int guard(struct task_struct *victim)
{
	return is_agentd(victim) ? guard_refuses(AGENTD_OP_PTRACE) : 0;
}

#endif
