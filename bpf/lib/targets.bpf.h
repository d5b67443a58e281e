/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The objects of an LSM hook by their whole paths: walked, judged, answered and told. In shared.bpf.c, not in the hooks. */
#ifndef AGENTD_TARGETS_BPF_H
#define AGENTD_TARGETS_BPF_H

#include "recall.bpf.h"

static __always_inline u32 hook_point(void)
{
	struct agentd_control *c = control_get();

	return c ? c->point : AGENTD_POINT_LSM;
}

static __always_inline struct emission *emission_here(struct scratch *s, u32 op, u32 len)
{
	struct emission *m = emission_begin(s, op, hook_point(), AGENTD_PREVENTED);

	m->object_off = s->path_off;
	m->object_len = len;
	return m;
}

/* Under what a walk is going to be made. */
static __always_inline void walked_begin(struct walked *k, u64 mnt)
{
	k->generation = 0;
	k->len = NO_PREFIX;
	k->stamp = 0;
	k->mnt = mnt;
	if (constants.memory) {
		k->renames = sequence(constants.rename_lock);
		k->mounts = sequence(constants.mount_lock);
		k->epoch = memory_time();
	}
}

/* Resolves target `i` into scratch->path and judges it, into scratch->v[i]. Returns its length, 0: unresolved. */
__noinline int target_look(u32 slot, u32 agent, u32 i)
{
	struct scratch *s = scratch_get(slot);
	struct target *t;
	struct verdict *v;
	u32 len;

	if (!s)
		return 0;
	t = &s->target[i & 1];
	v = &s->v[i & 1];
	s->look = i & 1;
	walked_begin(&s->walked[i & 1], t->mnt);
	len = path_resolve(slot, t->mnt, t->dentry, AGENTD_PATH_MAX);
	s->split = s->up.leaf;
	if (t->node && !in_dev(s)) /* its name says nothing about what it opens */
		len = 0;
	if (len) {
		path_verdict(v, slot, agent, t->op);
		s->walked[i & 1].generation = v->generation; /* also of the root of a mount, which is in no folder */
	} else {
		verdict_unresolved(v, agent, t->op);
	}
	t->hash[0] = s->hash[0];
	t->hash[1] = s->hash[1];
	s->split = 0;
	return len;
}

#include "check.bpf.h" /* it uses target_look() */

/* The same, and keeps its folder. */
static __always_inline u32 target_look_keep(u32 slot, u32 agent, u32 i)
{
	u32 len = target_look(slot, agent, i);

	if (constants.memory && len)
		folder_remember(slot, agent, i);
	return len;
}

/*
 * Judges `count` targets (1 or 2) as one operation: the worst verdict stands, and where both want an answer it is asked for
 * the first. 0, or the errno.
 */
static __always_inline int judge_targets(struct agentd_tag *tag, u32 slot, u32 count)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	u32 len, at = 0;
	int error;

	if (!s)
		return -EPERM;
	s->targets = count;
	s->target_hit[0] = s->target_hit[1] = 0;
	len = target_look_keep(slot, tag->agent, 0);
	if (count > 1) {
		u32 second = target_look_keep(slot, tag->agent, 1);

		if (worse(&s->v[1], &s->v[0]) || s->v[0].decision == AGENTD_ALLOW) {
			at = 1;
			len = second;
		} else {
			len = target_look(slot, tag->agent, 0); /* its path is in the buffer again */
		}
	}
	verdict_time(started);
	error = prevent(slot, tag, &s->v[at & 1], emission_here(s, s->target[at & 1].op, len));
	s->target_hit[at & 1] = s->hit;
	if (error || count < 2 || s->v[0].decision != AGENTD_ALLOW || s->v[1].decision != AGENTD_ALLOW)
		return error;
	len = target_look(slot, tag->agent, 0); /* both are allowed, and each is counted */
	error = prevent(slot, tag, &s->v[0], emission_here(s, s->target[0].op, len));
	s->target_hit[0] = s->hit;
	return error;
}

#endif
