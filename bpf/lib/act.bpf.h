/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Acting by signal, for the points that see an effect when it is there already (exec, trace): SIGKILL for what is
 * denied, SIGSTOP for what needs an answer. Both reach the task before it returns to user mode.
 *
 * A stopped process must not go on because somebody else sends SIGCONT: held.bpf.c stops it again, lib/keep.bpf.h keeps it
 * from user mode, and on kernels that lack what that needs a held task that passes the exit of another system call without
 * an answer is killed there (trace.bpf.c).
 */
#ifndef AGENTD_ACT_BPF_H
#define AGENTD_ACT_BPF_H

#include "keep.bpf.h"

#define PF_KTHREAD_OR_WORKER (0x00200000 | 0x00000010 | 0x00000020) /* PF_KTHREAD, PF_IO_WORKER, PF_WQ_WORKER */

static __always_inline u64 hold_new(void)
{
	struct agentd_control *c = control_get();

	return c ? __sync_fetch_and_add(&c->next_hold, 1) + 1 : 0;
}

/* The end of the process. `m`: the event that will tell, or NULL. */
static __always_inline void kill_current(struct agentd_tag *tag, struct emission *m)
{
	long failed = bpf_send_signal(SIGKILL);

	tag->flags |= AGENTD_TAG_KILLED;
	if (failed)
		stat_add(AGENTD_STAT_SIGNAL_FAILED, 1);
	if (!m)
		return;
	m->action = AGENTD_ACTION_KILL;
	if (failed)
		m->flags |= AGENTD_EVENT_FLAG_SIGNAL_FAILED;
}

/* The end of a process marked AGENTD_TAG_KILL_AT_EXIT. What was denied is on record; that its workload is doomed is not. */
static __always_inline void kill_marked(struct agentd_tag *tag)
{
	struct agentd_control *c = control_get();
	u32 workload = tag->workload; /* a key that stands elsewhere than in a map or here is none for Linux 6.1 */

	tag->flags &= ~AGENTD_TAG_KILL_AT_EXIT;
	if (c && c->doomed && bpf_map_lookup_elem(&doomed, &workload))
		tell(AGENTD_EVENT_ENDED, AGENTD_END_DOOMED, tag);
	kill_current(tag, NULL);
}

/* Ends the whole workload of `tag`: its other tasks at their next system call, exec, fork or connection. */
static __always_inline void doom(const struct agentd_tag *tag)
{
	struct agentd_control *c = control_get();
	u32 workload = tag->workload, one = 1;

	if (c && !bpf_map_update_elem(&doomed, &workload, &one, BPF_NOEXIST))
		__sync_fetch_and_add(&c->doomed, 1);
}

#define NS_TO_MS(ns) ((u32)((ns) / 1000000))

static __always_inline u32 now_ms(void)
{
	return NS_TO_MS(bpf_ktime_get_ns());
}

/* Has somebody else sent this process (its leader's tag) SIGCONT in this millisecond or the one before? */
static __always_inline bool just_continued(const struct agentd_tag *leader)
{
	return leader->continued_ms && now_ms() - leader->continued_ms <= 1;
}

/* Is nothing allowed now, because it could not be written to the log? */
static __always_inline bool unrecorded(const struct agentd_agent *agent)
{
	return (agent->flags & (AGENTD_AGENT_STRICT | AGENTD_AGENT_UNRECORDED)) ==
	       (AGENTD_AGENT_STRICT | AGENTD_AGENT_UNRECORDED);
}

/* Asks for an answer and stops the process. False: nobody can be asked, or it can't be stopped. */
static __noinline bool hold_here(u32 slot, struct agentd_tag *tag, const struct verdict *v, struct emission *m,
				 bool fresh)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *leader = bpf_task_storage_get(&tags, task->group_leader, 0, 0);

	m->type = AGENTD_EVENT_HOLD;
	m->action = AGENTD_ACTION_PAUSE;
	m->hold_id = hold_new();
	/* a tracer takes the SIGSTOP before it stops anything: what is traced can't be held */
	if (!leader || !m->hold_id || KREAD(task, ptrace))
		return false;
	/* nor what is in a storm of SIGCONT just now: one could take back its first SIGSTOP in the moment before it stops */
	if (just_continued(leader) || !emit(slot, tag, v, m))
		return false;
	tag->hold_op = m->op;
	tag->hold_id = m->hold_id;
	tag->flags |= AGENTD_TAG_HELD | (fresh ? AGENTD_TAG_FRESH : 0);
	leader->process_hold = m->hold_id;
	leader->continued = 0;
	if (!bpf_send_signal(SIGSTOP) && keep_here(task, true))
		return true;
	m->flags |= AGENTD_EVENT_FLAG_SIGNAL_FAILED;
	stat_add(AGENTD_STAT_SIGNAL_FAILED, 1);
	return false;
}

/* The current task goes on with what it was held for. */
static __noinline int hold_over(struct agentd_tag *tag)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *leader = bpf_task_storage_get(&tags, task->group_leader, 0, 0);

	if (!tag)
		return 0;
	if (leader && leader->process_hold == tag->hold_id)
		leader->process_hold = 0;
	tag->flags &= ~AGENTD_TAG_HELD;
	tag->hold_id = 0;
	keep_end(task);
	return 0;
}

/* Does what verdict `v` asks for, and says so. `fresh`: the held system call has not reached its exit yet. */
static __always_inline void act(u32 slot, struct agentd_tag *tag, const struct verdict *v, struct emission *m,
				bool fresh)
{
	const struct agentd_agent *agent = agent_get(tag->agent);
	bool monitor = agent && agent->flags & AGENTD_AGENT_MONITOR && v->rule != AGENTD_RULE_GUARD;

	if (v->decision == AGENTD_ALLOW) {
		if (agent && !monitor && unrecorded(agent)) {
			m->details = true;
			m->type = AGENTD_EVENT_VIOLATION;
			kill_current(tag, m);
			report_denied(slot, tag, v, m);
			return;
		}
		if (report_allowed(slot, tag, v, m) || !agent || !(agent->flags & AGENTD_AGENT_STRICT) || monitor)
			return;
		kill_current(tag, m); /* strict: what can't be recorded doesn't happen */
		return;
	}
	m->details = true;
	m->type = AGENTD_EVENT_VIOLATION;
	if (monitor) {
		m->flags |= AGENTD_EVENT_FLAG_MONITOR;
		m->action = AGENTD_ACTION_NONE;
		report_denied(slot, tag, v, m);
		return;
	}
	if (v->decision == AGENTD_REQUIRE_APPROVAL || v->action == AGENTD_ACTION_PAUSE) {
		if (hold_here(slot, tag, v, m, fresh))
			return;
		/* nobody can be asked, or it can't be stopped: the same as denied */
		m->type = AGENTD_EVENT_VIOLATION;
	}
	kill_current(tag, m);
	report_denied(slot, tag, v, m);
}

#endif
