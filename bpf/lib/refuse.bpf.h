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
	struct emission *m;
	struct scratch *s;
	u32 slot, len;

	if (!tag)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	verdict_guard(&s->v[0], tag->agent);
	len = word_set(s, "agentd");
	s->hash[0] = s->hash[1] = 0;
	m = emission_here(s, op, len);
	m->object_off = s->path_off;
	m->details = true;
	m->type = AGENTD_EVENT_VIOLATION;
	m->action = AGENTD_ACTION_DENY;
	report_denied(slot, tag, &s->v[0], m);
	scratch_give(slot);
	return -EPERM;
}

/* Is that agentd? Then no: 0, or -EPERM, recorded as `ptrace` of `agentd`. */
static __always_inline int guard(struct task_struct *victim)
{
	return is_agentd(victim) ? guard_refuses(AGENTD_OP_PTRACE) : 0;
}

#endif
