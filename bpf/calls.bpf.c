// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Calls of library functions, as an object of its own that is loaded when a policy first asks for one.
 *
 * uprobe call_entered    at the function's first instruction: is the caller in a workload? Everybody else goes on at once
 * a fetcher              compiled for this function when the policy was loaded (agentd/calls/compile.py): finds the text
 *                        in the registers, notes it in the map `called`
 * uprobe call_judged     judges and acts, or leaves what is long, or not in memory, to
 * uprobe call_slept      the same, in a form that may sleep, which takes no tail call: a probe of its own at the same place, set before
 *                        the first. The kernel runs those last that were set first (kernel/events/uprobes.c, consumer_add).
 *
 * The first three follow one another by tail calls, in one task that can't sleep between them. The cookie of a probe is the
 * number of its function, and above that how many bytes of code the function has in this file.
 *
 * Guarantee: contained. The process dies, or stops, having run the function's first instruction at most: a uprobe ends
 * with that instruction, and signals are taken behind it (kernel/events/uprobes.c). Other threads go on until then.
 * Fails: to deny (kill). What is left for later is marked AGENTD_TAG_KILL_AT_EXIT until it is judged, so that it ends at the
 * function's first system call if nobody comes. Two reloads under one judgement that sleeps: it begins again, three times,
 * then deny. At most 32 judgements sleep at once, 16 of one workload; more are denied. Trusted: nothing of the caller but its
 * registers and memory at this moment.
 *
 * Maps: `call_epoch` says which set of probes is in charge. `calls` has 256 slots, user space refuses more functions.
 * `called` full: the call is denied (a thread's entry is deleted when it is judged). `fetchers` with an empty slot: the same.
 */
#include "maps.bpf.c"

#include "path.bpf.c"
#include "pages.bpf.c"
#include "lookup.bpf.c"
#include "hosts.bpf.c"
#include "text.bpf.c"

#include "lib/act.bpf.h"
#include "lib/hold.bpf.h"
#include "lib/sleeper.bpf.h"
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
	bpf_tail_call(ctx, &fetchers, (u32)bpf_get_attach_cookie(ctx));
	stat_add(AGENTD_STAT_UNRESOLVED, 1); /* nothing is there to find its text */
	kill_current(tag, NULL);
	return 0;
}

/*
 * Linux 6.13 and newer give programs at probes one stack a CPU, also those that sleep or are preempted (kernel/bpf/verifier.c,
 * bpf_enable_priv_stack): whoever is judged on that CPU meanwhile writes over it. A program with a tail call keeps the
 * task's own; this one is never come to, and needs no map, which a program that sleeps may not have.
 */
static __always_inline void keep_own_stack(void)
{
	asm volatile("r0 = 0\n\t"
		     "if r0 == 0 goto passed_%=\n\t"
		     "call 12\n" /* bpf_tail_call */
		     "passed_%=:"
		     :
		     :
		     : "r0", "r1", "r2", "r3", "r4", "r5");
}

/* Leaves a call to call_slept(), which comes next. */
static __noinline void leave_called(struct agentd_tag *tag, const struct agentd_called *text)
{
	struct agentd_called later = *text;
	u32 thread = bpf_get_current_pid_tgid();

	later.flags |= AGENTD_CALLED_LATER;
	if (bpf_map_update_elem(&called, &thread, &later, BPF_ANY)) {
		kill_current(tag, NULL);
		return;
	}
	tag->flags |= AGENTD_TAG_KILL_AT_EXIT;
}

/* The word of a call as the object that is judged. */
static __always_inline struct verdict *called_word(struct scratch *s, const struct agentd_call *call, u32 len)
{
	s->path_off = AGENTD_PATH_MAX - len;
	bpf_probe_read_kernel(&s->path[s->path_off & (AGENTD_PATH_MAX - 1)], len & 127, call->word);
	s->text.sql.language = call->language;
	return &s->v[0];
}

/*
 * The whole verdict, and again if the policy was loaded anew meanwhile: the tables that it has read may have been written
 * over. False: it would never end.
 */
static __noinline int judge_sleeping(struct verdict *v, u32 slot, u32 agent, const struct agentd_called *text)
{
	const struct agentd_agent *ag = agent_get(agent);
	struct scratch *s = scratch_get(slot);
	int judged = CALL_JUDGED;

	if (!v || !s)
		return CALL_JUDGED;
	for (int i = 0; i < 3; i++) {
		u32 set;

		s->set = 0;
		judged = call_verdict_sleeping(v, slot, agent, text);
		set = (s->set - 1) & 1;
		if (!ag || (*(volatile const u32 *)&ag->active == set && ag->generation[set] == v->generation))
			return judged;
	}
	verdict_unresolved(v, agent, AGENTD_OP_CALL);
	return CALL_JUDGED;
}

static __always_inline void judge_called(struct agentd_tag *tag, const struct agentd_call *call,
					 const struct agentd_called *text, u32 code, bool sleeping)
{
	u64 begin = bpf_ktime_get_ns();
	u32 slot = sleeping ? sleeper_take(tag->workload) : scratch_take(), len = call->len;
	struct scratch *s = scratch_get(slot);
	struct emission *m;
	struct verdict *v;
	int judged;

	if (slot == NO_SLOT || !s || len > AGENTD_CALL_WORD) {
		kill_current(tag, NULL);
		return;
	}
	v = called_word(s, call, len);
	s->text.code = code;
	judged = sleeping ? judge_sleeping(v, slot, tag->agent, text) : call_verdict(v, slot, tag->agent, text);
	if (judged == CALL_LATER) {
		leave_called(tag, text);
	} else if (judged) {
		verdict_time(begin);
		m = emission_begin(s, AGENTD_OP_CALL, AGENTD_POINT_UPROBE, AGENTD_CONTAINED);
		m->object_off = s->path_off;
		m->object_len = len;
		m->argv_kept = s->args.kept;
		m->flags = s->args.kept ? AGENTD_EVENT_FLAG_TEXT | (call->language & 3) << AGENTD_EVENT_SQL_SHIFT : 0;
		/* as in programs that can't sleep: the leader of the thread group stays where it is (bpf_rcu_read_lock: 6.2) */
		if (sleeping && bpf_rcu_read_lock) {
			bpf_rcu_read_lock();
			act(slot, tag, v, m, false);
			bpf_rcu_read_unlock();
		} else {
			act(slot, tag, v, m, false);
		}
	}
	if (sleeping)
		sleeper_give(slot);
	else
		scratch_give(slot);
}

static __always_inline void judge_text(struct agentd_tag *tag, const struct agentd_called *text, u32 code,
				       bool sleeping)
{
	u32 number = text->call;
	struct agentd_call *call = bpf_map_lookup_elem(&calls, &number);

	if (call)
		judge_called(tag, call, text, code, sleeping);
	else
		kill_current(tag, NULL);
}

/* Two functions, because the verifier looks at each once, and what may sleep calls what the other must not. */
static __noinline int judge_now(struct agentd_tag *tag, const struct agentd_called *text, u32 code)
{
	if (tag && text)
		judge_text(tag, text, code, false);
	return 0;
}

static __noinline int judge_later(struct agentd_tag *tag, const struct agentd_called *text, u32 code)
{
	if (tag && text)
		judge_text(tag, text, code, true);
	return 0;
}

/* Who is in charge was asked at the entry. */
SEC("uprobe")
int call_judged(struct pt_regs *ctx)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, bpf_get_current_task_btf(), 0, 0);
	u32 thread = bpf_get_current_pid_tgid();
	struct agentd_called *found, text;

	keep_own_stack();
	found = bpf_map_lookup_elem(&called, &thread);
	if (!tag)
		return 0;
	if (!found) {
		kill_current(tag, NULL);
		return 0;
	}
	text = *found;
	bpf_map_delete_elem(&called, &thread);
	if (text.flags & AGENTD_CALLED_ENDS)
		stream_end(text.stream);
	else
		judge_now(tag, &text, bpf_get_attach_cookie(ctx) >> 32);
	return 0;
}

/* What was left for later at this very hit of the probe. */
SEC("uprobe.s")
int call_slept(struct pt_regs *ctx)
{
	u32 thread = bpf_get_current_pid_tgid();
	struct agentd_tag *tag = caller_tag();
	struct agentd_called *found;

	keep_own_stack();
	if (!tag || !(tag->flags & AGENTD_TAG_KILL_AT_EXIT))
		return 0;
	found = bpf_map_lookup_elem(&called, &thread);
	if (!found || !(found->flags & AGENTD_CALLED_LATER))
		return 0;
	found->flags &= ~AGENTD_CALLED_LATER;
	tag->flags &= ~AGENTD_TAG_KILL_AT_EXIT;
	judge_later(tag, found, bpf_get_attach_cookie(ctx) >> 32);
	bpf_map_delete_elem(&called, &thread);
	return 0;
}

#include "mapped.bpf.c"
