// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Entry points for tests: the real look-up code on an object that user space gives (BPF_PROG_RUN of a `syscall` program),
 * so that property tests compare what the kernel decides with what the evaluator in Python decides.
 */
#include "agentd.bpf.c"

struct probe_request {
	u32 agent;
	u32 op;
	u32 len; /* of the object; 0: unresolved */
	u32 args_len;
	u64 args; /* user address of the argv block */
	/* the answer */
	u32 outcome;
	u32 rule;
	u32 decision;
	u32 toolop;
	char object[AGENTD_PATH_MAX];
};

SEC("syscall")
int probe_verdict(struct probe_request *request)
{
	u32 slot = scratch_take(), op = request->op, len = request->len, agent = request->agent;
	struct scratch *s = scratch_get(slot);
	struct verdict *v;

	if (slot == NO_SLOT || !s)
		return -1;
	v = &s->v[0];
	if (len > AGENTD_PATH_MAX || args_scan(slot, agent, request->args, request->args + request->args_len)) {
		len = 0;
	} else if (op < AGENTD_PATH_OPS) {
		s->path_off = AGENTD_PATH_MAX - len;
		bpf_probe_read_kernel(&s->path[s->path_off & (AGENTD_PATH_MAX - 1)], len & (2 * AGENTD_PATH_MAX - 1),
				      request->object);
	} else {
		bpf_probe_read_kernel(s->path, len & 31, request->object);
	}
	if (!len)
		verdict_unresolved(v, agent, op);
	else if (op < AGENTD_PATH_OPS)
		path_verdict(v, slot, agent, op);
	else
		host_verdict(v, slot, agent, op, len);
	request->outcome = v->outcome;
	request->rule = v->rule;
	request->decision = v->decision;
	request->toolop = v->toolop;
	scratch_give(slot);
	return 0;
}
