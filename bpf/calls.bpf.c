// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Calls of library functions, as an object of its own that is loaded when a policy first asks for one.
 *
 * uprobe call_entered    at the function's first instruction: is the caller in a workload? Everybody else goes on at once
 * a fetcher              compiled for this function when the policy was loaded (agentd/calls/compile.py): finds the text
 *                        in the registers, notes it in the map `called`
 * uprobe call_judged     judges and acts
 *
 * They follow one another by tail calls, in one task that can't sleep between them. The cookie of a probe is the number of
 * its function.
 *
 * Guarantee: contained. The process dies, or stops, having run the function's first instruction at most: a uprobe ends
 * with that instruction, and signals are taken behind it (kernel/events/uprobes.c). Other threads go on until then.
 * Fails: to deny (kill). Trusted: nothing of the caller but its registers and memory at this moment.
 *
 * Maps: `call_epoch` says which set of probes is in charge. `calls` has 256 slots, user space refuses more functions.
 * `called` full: the call is denied. `fetchers` with an empty slot: the same.
 */
#include "maps.bpf.c"

#include "path.bpf.c"
#include "pages.bpf.c"
#include "lookup.bpf.c"
#include "hosts.bpf.c"
#include "text.bpf.c"

#include "lib/act.bpf.h"
#include "lib/hold.bpf.h"
#include "lib/syscall.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AGENTD_MAX_CALLS);
	__type(key, u32);
	__type(value, struct agentd_call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32); /* thread */
	__type(value, struct agentd_called);
} called SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, AGENTD_MAX_CALLS);
	__type(key, u32);
	__type(value, u32);
} fetchers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} call_epoch SEC(".maps");

/*
 * The mark of the caller, if this set of probes is in charge of calls: a daemon that takes over takes charge of the rest at
 * once, and of calls when it has its own probes in place. Until then these go on.
 */
static __always_inline struct agentd_tag *caller_tag(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *tag;
	u32 zero = 0, *epoch;

	if (nobodys(task))
		return NULL;
	tag = bpf_task_storage_get(&tags, task, 0, 0);
	if (!tag)
		return NULL;
	epoch = bpf_map_lookup_elem(&call_epoch, &zero);
	return epoch && *epoch == constants.epoch ? tag : NULL;
}

SEC("uprobe")
int call_entered(struct pt_regs *ctx)
{
	struct agentd_tag *tag = caller_tag();

	if (!tag)
		return 0;
	if (tag->flags & AGENTD_TAG_KILL_AT_EXIT) {
		kill_marked(tag);
		return 0;
	}
	bpf_tail_call(ctx, &fetchers, bpf_get_attach_cookie(ctx));
	stat_add(AGENTD_STAT_UNRESOLVED, 1); /* nothing is there to find its text */
	kill_current(tag, NULL);
	return 0;
}

static __noinline void judge_called(struct agentd_tag *tag, const struct agentd_call *call,
				    const struct agentd_called *text)
{
	u64 begin = bpf_ktime_get_ns();
	u32 slot = scratch_take(), len = call->len;
	struct scratch *s = scratch_get(slot);
	struct emission *m;
	struct verdict *v;

	if (slot == NO_SLOT || !s || len > AGENTD_CALL_WORD) {
		kill_current(tag, NULL);
		return;
	}
	v = &s->v[0];
	s->path_off = AGENTD_PATH_MAX - len;
	bpf_probe_read_kernel(&s->path[s->path_off & (AGENTD_PATH_MAX - 1)], len & 127, call->word);
	s->text.sql.language = call->language;
	if (call_verdict(v, slot, tag->agent, text)) {
		verdict_time(begin);
		m = emission_begin(s, AGENTD_OP_CALL, AGENTD_POINT_UPROBE, AGENTD_CONTAINED);
		m->object_off = s->path_off;
		m->object_len = len;
		m->argv_kept = s->args.kept;
		m->flags = s->args.kept ? AGENTD_EVENT_FLAG_TEXT | (call->language & 3) << AGENTD_EVENT_SQL_SHIFT : 0;
		act(slot, tag, v, m, false);
	}
	scratch_give(slot);
}

/* Who is in charge was asked at the entry. */
SEC("uprobe")
int call_judged(struct pt_regs *ctx)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, bpf_get_current_task_btf(), 0, 0);
	u32 thread = bpf_get_current_pid_tgid(), number;
	struct agentd_called *found, text;
	struct agentd_call *call;

	found = bpf_map_lookup_elem(&called, &thread);
	if (!tag)
		return 0;
	if (!found) {
		kill_current(tag, NULL);
		return 0;
	}
	text = *found;
	bpf_map_delete_elem(&called, &thread);
	number = text.call;
	call = bpf_map_lookup_elem(&calls, &number);
	if (call)
		judge_called(tag, call, &text);
	else
		kill_current(tag, NULL);
	return 0;
}

#include "mapped.bpf.c"
