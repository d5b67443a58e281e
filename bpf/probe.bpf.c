// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Entry points for tests: the real look-up code on an object that user space gives (BPF_PROG_RUN), so that property tests
 * compare what the kernel decides with what the evaluator in Python decides.
 *
 * The program is of a kind that can't sleep, like every program that decides: a reload waits for it to end.
 */
#include "agentd.bpf.c"
#include "text.bpf.c"

#define PROBE_REQUESTS 16 /* one a thread of the test; a power of two */

struct probe_request {
	u32 agent;
	u32 op;
	u32 len; /* of the object; 0: unresolved */
	u32 args_len;
	u64 args; /* user address of the argv block */
	u64 netns; /* whose names count; 0: none; of a call afterwards what call_verdict() returned */
	u64 stream; /* of a call: see struct agentd_called */
	u32 language; /* of a call, whose text is where `args` says */
	u32 flags; /* AGENTD_CALLED_* */
	/* the answer */
	u32 outcome;
	u32 generation;
	u32 rule;
	u32 toolop;
	u32 timeout;
	u8 decision, action, risk, unresolved;
	char object[AGENTD_PATH_MAX];
};

struct probe_requests_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PROBE_REQUESTS);
	__type(key, u32);
	__type(value, struct probe_request);
};
struct probe_requests_map probe_requests SEC(".maps");

static __noinline void probe_judge(struct probe_request *request, u32 slot)
{
	struct scratch *s = scratch_get(slot);
	u32 op, len, agent;
	struct verdict *v;

	if (!s || !request)
		return;
	op = request->op;
	len = request->len;
	agent = request->agent;
	v = &s->v[0];
	s->netns = request->netns;
	if (op == AGENTD_OP_EXEC) {
		program_here(s, request->args, request->args + request->args_len);
		args_scan(slot, agent);
	}
	if (len > AGENTD_PATH_MAX) {
		len = 0;
	} else if (op < AGENTD_PATH_OPS) {
		s->path_off = AGENTD_PATH_MAX - len;
		bpf_probe_read_kernel(&s->path[s->path_off & (AGENTD_PATH_MAX - 1)], len & (2 * AGENTD_PATH_MAX - 1),
				      request->object);
	} else {
		bpf_probe_read_kernel(s->path, len & 31, request->object);
	}
	if (op == AGENTD_OP_CALL) {
		struct agentd_called text = { .flags = request->flags,
					      .text = request->args,
					      .len = request->args_len,
					      .stream = request->stream };

		s->text.sql.language = request->language;
		request->netns = call_verdict(v, slot, agent, &text);
	} else if (op == AGENTD_OP_EXEC)
		loaded_verdict(v, slot, agent, len != 0);
	else if (!len)
		verdict_unresolved(v, agent, op);
	else if (op < AGENTD_PATH_OPS)
		path_verdict(v, slot, agent, op);
	else
		host_verdict(v, slot, agent, op, len);
	request->outcome = v->outcome;
	request->generation = v->generation;
	request->rule = v->rule;
	request->toolop = v->toolop;
	request->timeout = v->timeout;
	request->decision = v->decision;
	request->action = v->action;
	request->risk = v->risk;
	request->unresolved = v->unresolved;
}

/* args[0]: which request. */
SEC("raw_tp")
int probe_verdict(struct bpf_raw_tracepoint_args *ctx)
{
	u32 number = ctx->args[0] & (PROBE_REQUESTS - 1);
	struct probe_request *request = bpf_map_lookup_elem(&probe_requests, &number);
	u32 slot = scratch_take();

	if (!request || slot == NO_SLOT)
		return -1;
	probe_judge(request, slot);
	scratch_give(slot);
	return 0;
}

static __noinline void probe_answer(struct probe_request *request, u32 slot)
{
	struct scratch *s = scratch_get(slot);
	u32 len, at;

	if (!s || !request)
		return;
	len = request->len;
	request->outcome = -1;
	request->rule = 0;
	if (len > AGENTD_PATH_MAX)
		return;
	bpf_probe_read_kernel(s->name[0], len & (2 * AGENTD_PATH_MAX - 1), request->object);
	s->message.len = len;
	s->netns = request->netns;
	at = question_read(slot);
	request->rule = at;
	if (at)
		request->outcome = message_learn(slot, request->agent, at);
}

/* args[0]: which request. Its object is a message that came from a resolver, to an agent that asked for it. */
SEC("raw_tp")
int probe_message(struct bpf_raw_tracepoint_args *ctx)
{
	u32 number = ctx->args[0] & (PROBE_REQUESTS - 1);
	struct probe_request *request = bpf_map_lookup_elem(&probe_requests, &number);
	u32 slot = scratch_take();

	if (!request || slot == NO_SLOT)
		return -1;
	probe_answer(request, slot);
	scratch_give(slot);
	return 0;
}

/*
 * args[0]: which request. Its object begins with a name as it is kept, padded with zeros; behind that are `len` bytes of
 * another, and what happens to stand behind it. outcome: do they differ?
 */
SEC("raw_tp")
int probe_leaf(struct bpf_raw_tracepoint_args *ctx)
{
	u32 number = ctx->args[0] & (PROBE_REQUESTS - 1);
	struct probe_request *request = bpf_map_lookup_elem(&probe_requests, &number);

	if (!request || !can_cast())
		return -1;
	request->outcome = !!name_differs((const u64 *)request->object, (u64)request->object + LEAF_WORDS * 8,
					  request->len & (LEAF_WORDS * 8 - 1));
	return 0;
}
