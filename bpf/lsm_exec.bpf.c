// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * exec, before the effect (LSM hook; see lib/prevent.bpf.h).
 *
 * bprm_check_security runs once for the file that was named and once for each interpreter behind it, so a script and its
 * interpreter are judged each for itself. Where the arguments decide, it leaves the verdict to exec.bpf.c, which reads them
 * from the new address space before the first instruction: contained, not prevented. What is allowed here is counted
 * there, once.
 */
#include "lib/prevent.bpf.h"

static __always_inline int judge_program(struct agentd_tag *tag, u32 slot, struct linux_binprm *bprm)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *agent = agent_get(tag->agent);
	struct file *file = KREAD(bprm, file);
	u32 len;
	int error;

	if (!s)
		return -EPERM;
	if (agent && agent->flags & AGENTD_AGENT_MONITOR)
		return 0; /* recorded once, by exec.bpf.c */
	if (KREAD(bprm, interp) == KREAD(bprm, filename))
		tag->granted[0] = tag->granted[1] = 0; /* a new attempt */
	target_set(s, 0, AGENTD_OP_EXEC, KREAD(file, f_path.mnt), KREAD(file, f_path.dentry));
	s->target[0].hash[0] = s->target[0].hash[1] = 0; /* the path is in the hash of the object */
	s->targets = 1;
	len = path_of_file(slot, file);
	if (len)
		early_verdict(&s->v[0], slot, tag->agent);
	else
		verdict_unresolved(&s->v[0], tag->agent, AGENTD_OP_EXEC);
	verdict_time(started);
	if (s->v[0].decision == AGENTD_ALLOW)
		return 0;
	error = refuse_or_hold(slot, tag, &s->v[0], emission_here(s, AGENTD_OP_EXEC, len));
	if (!error) { /* approved: exec.bpf.c need not ask again for this object */
		tag->granted[0] = s->hash[0];
		tag->granted[1] = s->hash[1];
	}
	return error;
}

SEC("?lsm/bprm_check_security")
int BPF_PROG(lsm_bprm_check_security, struct linux_binprm *bprm)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	u32 slot;
	int error;

	if (!tag || tag->flags & AGENTD_TAG_ROOT_EXEC)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	error = judge_program(tag, slot, bprm);
	scratch_give(slot);
	return error;
}
