// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Who belongs to a workload.
 *
 * tp_btf/sched_process_fork   the child gets its parent's current mark before it runs
 * tp_btf/sched_process_exit   tells user space that a held task is gone
 * tp_btf/sched_switch         a held process that somebody else's SIGCONT woke: stopped again
 * tp_btf/signal_generate      the same, for a SIGCONT that comes before the process has gone to sleep
 * iter/task tag_task          marks processes that run already (`agentd tag`): a tree or a cgroup
 * iter/task list_tasks        one line for each marked task: `agentd status`, clean-up
 *
 * Fails: a fork that can't be marked, for want of memory, is killed, child and parent both; where the kernel can't
 * signal another task (before 6.13) the child is found by the counter `untracked` and ended by user space.
 */
#include "lib/act.bpf.h"

/* since 6.13 */
extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type, u64 value) __ksym __weak;
/* 6.18; the loader takes it out where its prototype is another (kernel/compat.py) */
extern int bpf_task_work_schedule_resume_impl(struct task_struct *task, struct bpf_task_work *tw, void *map__map,
					      bpf_task_work_callback_t callback, void *aux__prog) __ksym __weak;
/* since 7.0, the last argument is the verifier's to give */
extern int bpf_task_work_schedule_resume(struct task_struct *task, struct bpf_task_work *tw, void *map__map,
					 bpf_task_work_callback_t callback) __ksym __weak;

struct agentd_tag_request tag_request SEC(".data.request") = {};

#define CGROUP_DEPTH 64 /* deeper is not found: tagging says that it marked nothing */

/* Is the task in the cgroup (v2) of the request, or below it? */
static __always_inline bool in_cgroup(struct task_struct *task)
{
	struct cgroup *cg = KREAD(task, cgroups, dfl_cgrp);

	for (int i = 0; i < CGROUP_DEPTH; i++) {
		struct cgroup_subsys_state *up;

		if (!cg)
			return false;
		if (KREAD(cg, kn, id) == tag_request.cgroup)
			return true;
		up = KREAD(cg, self.parent);
		cg = up ? KREAD(up, cgroup) : NULL;
	}
	return false;
}

#define ANCESTORS 32

struct ancestry {
	struct task_struct *task;
	bool found;
};

static long ancestor_step(u32 i, struct ancestry *a)
{
	struct task_struct *task = a->task;
	struct agentd_tag *tag;
	int tgid = KREAD(task, tgid);

	if (tgid == tag_request.root_tgid) {
		a->found = true;
		return 1;
	}
	if (tgid <= 1)
		return 1;
	tag = bpf_task_storage_get(&tags, task->group_leader, 0, 0);
	if (tag && tag->workload == tag_request.workload) {
		a->found = true;
		return 1;
	}
	a->task = task->real_parent;
	return 0;
}

/*
 * Is the process of the request among the 32 processes above this task, or is one of them marked already? A callback: the
 * verifier takes a quarter of a second over the same loop written out.
 */
static __always_inline bool in_tree(struct task_struct *task)
{
	struct ancestry a = { .task = task };

	bpf_loop(ANCESTORS, ancestor_step, &a, 0);
	return a.found;
}

/*
 * A fork while a tree or a cgroup is being marked: the forking task may not have been reached yet, nor anything between
 * it and the root. It belongs if an ancestor or its cgroup does.
 */
static __always_inline bool forks_while_tagging(struct task_struct *parent, struct agentd_tag *as)
{
	as->agent = tag_request.agent;
	as->workload = tag_request.workload;
	if (parent->tgid == tag_request.spare)
		return false;
	return tag_request.root_tgid ? in_tree(parent) : in_cgroup(parent);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(task_forked, struct task_struct *parent, struct task_struct *child)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, parent, 0, 0), *own;
	struct agentd_tag fresh = {};
	struct agentd_control *c;

	if (tag) {
		fresh.agent = tag->agent;
		fresh.workload = tag->workload;
	} else {
		c = control_get();
		if (!c || !c->tagging || !forks_while_tagging(parent, &fresh))
			return 0;
	}
	if (!in_charge())
		return 0;
	own = bpf_task_storage_get(&tags, child, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (own) { /* counted after it has its mark: see TaskMarks.none_left() */
		stat_add(AGENTD_STAT_FORKS, 1);
		return 0;
	}
	stat_add(AGENTD_STAT_UNTRACKED, 1);
	c = control_get();
	if (c)
		__sync_fetch_and_add(&c->untracked, 1);
	if (bpf_send_signal_task)
		bpf_send_signal_task(child, SIGKILL, PIDTYPE_TGID, 0);
	if (tag)
		tag->flags |= AGENTD_TAG_KILLED;
	bpf_send_signal(SIGKILL);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(task_exited, struct task_struct *task)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, task, 0, 0);

	/* the mark stays until the task is freed: a leader that ended before its threads still speaks for the process */
	if (tag && in_charge() && tag->hold_id)
		tell(AGENTD_EVENT_GONE, 0, tag);
	return 0;
}

/* The mark of a process that waits for an answer which it has not got, or NULL. */
static __always_inline struct agentd_tag *held_process(struct task_struct *task)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, task->group_leader, 0, 0);

	return tag && tag->process_hold && in_charge() && !answered(tag->process_hold) ? tag : NULL;
}

/* Work that a woken task does for us before it returns to user mode; one slot a task, by pid. Taken already: -EBUSY. */
#define REMINDERS 1024

struct reminder {
	struct bpf_task_work work;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REMINDERS);
	__type(key, u32);
	__type(value, struct reminder);
} reminders SEC(".maps");

/* In the woken task itself, on its way to user mode. It may have got its answer since it was woken. */
static int stop_again(struct bpf_map *map, void *key, void *value)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, bpf_get_current_task_btf(), 0, 0);

	if (tag && tag->flags & AGENTD_TAG_HELD && answered(tag->hold_id))
		return 0;
	bpf_send_signal(SIGSTOP);
	return 0;
}

static __always_inline void remind(struct task_struct *task)
{
	u32 slot = task->pid & (REMINDERS - 1);
	struct reminder *reminder = bpf_map_lookup_elem(&reminders, &slot);

	if (!reminder)
		return;
	if (bpf_task_work_schedule_resume)
		bpf_task_work_schedule_resume(task, &reminder->work, &reminders, stop_again);
	else if (bpf_task_work_schedule_resume_impl)
		bpf_task_work_schedule_resume_impl(task, &reminder->work, &reminders, stop_again, NULL);
}

/*
 * A held process that was woken comes through here before anything else of it runs, on its own CPU, with interrupts off.
 * The work it is given is there as soon as they are on again, which is still inside the kernel, and is done before the
 * return to user mode: it stops again, having run nothing (bpf_task_work, Linux 6.18).
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(task_switched, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	if (bpf_task_storage_get(&tags, next, 0, 0) && held_process(next))
		remind(next);
	return 0;
}

#define CONTINUES_ALLOWED 32 /* a shell's `fg`, a supervisor's habit; more is an attempt */
#define NS_TO_MS(ns) ((u32)((ns) / 1000000))

/*
 * Somebody's SIGCONT for a held process: is it one of those that mistakes send? Not when another came in the same
 * millisecond or the one before: it takes two, the second between our SIGSTOP and the moment it is taken, to get past it.
 */
static __always_inline bool forgivable(struct agentd_tag *held)
{
	u32 now = NS_TO_MS(bpf_ktime_get_ns()), before = held->continued_ms;

	held->continued_ms = now;
	return __sync_fetch_and_add(&held->continued, 1) < CONTINUES_ALLOWED && now - before > 1;
}

/*
 * Runs in the sender, under the receiver's siglock. The reminder and the SIGSTOP leave when that is released, and race
 * with the receiver, which may be between taking its last SIGSTOP and user mode: this SIGCONT took that one back. A storm
 * of thousands would win some instructions and one system call, at whose exit the process is killed (trace.bpf.c). So a
 * storm ends what is held, by SIGKILL, which no SIGCONT takes back, and a sender that is tagged. Kernels before 6.13 can't
 * signal another task: there the receiver ends at that exit.
 */
SEC("tp_btf/signal_generate")
int BPF_PROG(signal_generated, int sig, struct kernel_siginfo *info, struct task_struct *to, int group, int result)
{
	struct agentd_tag *held, *sender;

	if (sig != SIGCONT)
		return 0;
	held = held_process(to);
	if (!held)
		return 0;
	if (!(held->flags & AGENTD_TAG_ENDING) && forgivable(held)) {
		remind(to);
		if (bpf_send_signal_task)
			bpf_send_signal_task(to, SIGSTOP, PIDTYPE_TGID, 0);
		return 0;
	}
	if (bpf_send_signal_task)
		bpf_send_signal_task(to, SIGKILL, PIDTYPE_TGID, 0);
	if (!(held->flags & AGENTD_TAG_ENDING)) {
		held->flags |= AGENTD_TAG_ENDING;
		tell(AGENTD_EVENT_ENDED, AGENTD_END_CONTINUED, held);
	}
	sender = bpf_task_storage_get(&tags, bpf_get_current_task_btf(), 0, 0);
	if (sender)
		sender->flags |= AGENTD_TAG_KILL_AT_EXIT; /* of the kill(2) that brought it here */
	return 0;
}

SEC("iter/task")
int tag_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct agentd_tag *tag, fresh = {};
	bool wanted;

	if (!task || task->flags & 0x00200000 /* PF_KTHREAD */ || task->tgid == tag_request.spare)
		return 0;
	tag = bpf_task_storage_get(&tags, task, 0, 0);
	if (tag_request.remove) {
		if (tag && tag->workload == tag_request.workload) {
			bpf_task_storage_delete(&tags, task);
			__sync_fetch_and_add(&tag_request.marked, 1);
		}
		return 0;
	}
	if (tag && tag->workload == tag_request.workload)
		return 0;
	if (tag_request.root_tgid) {
		struct agentd_tag *up = bpf_task_storage_get(&tags, task->group_leader, 0, 0);

		wanted = task->tgid == tag_request.root_tgid || (up && up->workload == tag_request.workload);
		if (!wanted) {
			up = bpf_task_storage_get(&tags, task->real_parent, 0, 0);
			wanted = up && up->workload == tag_request.workload;
		}
	} else {
		wanted = in_cgroup(task);
	}
	if (!wanted)
		return 0;
	if (KREAD(task, io_uring))
		__sync_fetch_and_add(&tag_request.io_uring, 1);
	if (tag) { /* from another workload: moves over */
		tag->agent = tag_request.agent;
		tag->workload = tag_request.workload;
	} else {
		fresh.agent = tag_request.agent;
		fresh.workload = tag_request.workload;
		tag = bpf_task_storage_get(&tags, task, &fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!tag) {
			stat_add(AGENTD_STAT_UNTRACKED, 1);
			return 0; /* the next pass tries again; user space gives up after a while, loudly */
		}
	}
	__sync_fetch_and_add(&tag_request.marked, 1);
	return 0;
}

SEC("iter/task")
int list_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct agentd_tag *tag;
	struct agentd_task_line line = {};

	if (!task)
		return 0;
	tag = bpf_task_storage_get(&tags, task, 0, 0);
	if (!tag)
		return 0;
	if (KREAD(task, exit_state) && !KREAD(task, signal, live.counter)) /* a zombie does nothing any more */
		return 0;
	line.agent = tag->agent;
	line.workload = tag->workload;
	line.pid = task->tgid;
	line.tid = task->pid;
	line.ppid = KREAD(task, real_parent, tgid);
	line.flags = tag->flags;
	line.start_time = KREAD(task, group_leader, start_boottime);
	line.hold_id = tag->hold_id;
	line.hold_op = tag->hold_op;
	bpf_seq_write(ctx->meta->seq, &line, sizeof(line));
	return 0;
}
