/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Objects of LSM hooks that are told a dentry and no mount: see mounts.bpf.c. */
#ifndef AGENTD_MOUNTS_BPF_H
#define AGENTD_MOUNTS_BPF_H

#include "prevent.bpf.h"

#define NOT_THE_CALLERS 0xffffffffu

u32 mounts_of(u32 slot);

/* Which of the first `count` places gives the worst verdict on the dentry that was sought; the first one of several. */
__noinline u32 worst_place(u32 slot, u32 agent, u32 op, u32 count)
{
	struct scratch *s = scratch_get(slot);
	u32 worst = 0;

	if (!s)
		return 0;
	for (u32 i = 0; i < PLACES; i++) {
		if (i >= count)
			break;
		target_set(s, 1, op, (const struct vfsmount *)s->mounts.place[i], s->mounts.sought);
		target_look(slot, agent, 1);
		if (!i || worse(&s->v[1], &s->v[0])) {
			s->v[0] = s->v[1];
			worst = i;
		}
	}
	return worst;
}

/* Judges the dentry that was sought where one mount, or the worst of `count`, shows it. 0, or an errno. */
static __noinline int judge_places(struct agentd_tag *tag, u32 slot, u32 op, u32 count)
{
	struct scratch *s = scratch_get(slot);
	u32 at;

	if (!s)
		return -EPERM;
	at = count > 1 ? worst_place(slot, tag->agent, op, count) : 0;
	target_set(s, 0, op, (const struct vfsmount *)s->mounts.place[at & (PLACES - 1)], s->mounts.sought);
	if (count == 1 && can_cast()) { /* memory is asked by pointers that can be read through */
		const struct vfsmount *mnt = CAST(struct vfsmount, s->mounts.place[0]);
		const struct dentry *dentry = CAST(struct dentry, s->mounts.sought);
		struct recall r = { .ops = ONE_NAME(op) };

		if (constants.memory && !constants.check) {
			if (names_recalled(tag, &r, mnt, dentry, dentry))
				return 0;
			s->seen = r;
		}
		return judge_dentries(tag, slot, 1, mnt, dentry, mnt, dentry);
	}
	return judge_targets(tag, slot, 1);
}

/* The whole of a hook whose object is a dentry (a kernel pointer). */
static __always_inline int judge_dentry(u32 op, struct dentry *dentry)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	u32 slot, count;
	int error = 0;

	if (!tag)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	s->mounts.sought = dentry; /* by the buffer: from there it comes as a number, which a global function takes */
	count = mounts_of(slot);
	if (!count) {
		error = judge_unresolved(tag, slot, op);
	} else if (count != NOT_THE_CALLERS) {
		error = judge_places(tag, slot, op, count);
	}
	scratch_give(slot);
	return error;
}

#endif
