/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Objects of LSM hooks that are told a dentry and no mount: see mounts.bpf.c. */
#ifndef AGENTD_MOUNTS_BPF_H
#define AGENTD_MOUNTS_BPF_H

#include "prevent.bpf.h"

/* The whole of a hook whose object is a dentry (a kernel pointer). */
static __always_inline int judge_dentry(u32 op, struct dentry *dentry)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	u32 slot;
	int error;

	if (!tag)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	s->mounts.sought = dentry; /* by the buffer: from there it comes as a number, which a global function takes */
	error = shared_answer(slot, JUDGE_SOUGHT, op, 0);
	scratch_give(slot);
	return error;
}

#endif
