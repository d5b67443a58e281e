// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Who belongs to a workload.
 *
 * tp_btf/sched_process_fork   the child gets its parent's current mark before it runs
 * tp_btf/sched_process_exit   tells user space that a held task is gone
 * iter/task tag_task          marks processes that run already (`agentd tag`): a tree or a cgroup
 * iter/task list_tasks        one line for each marked task: `agentd status`, clean-up
 *
 * Fails: a fork that can't be marked, for want of memory, is killed, child and parent both; where the kernel can't
 * signal another task (before 6.13) the child is found by the counter `untracked` and ended by user space.
 */
#include "lib/act.bpf.h"

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
		fresh.flags = tag->flags & AGENTD_TAG_NOTIFIED; /* the filter is inherited, too */
	} else {
		c = control_get();
		if (!c || !c->tagging || !forks_while_tagging(parent, &fresh))
			return 0;
	}
	if (!in_charge())
		return 0;
	own = mark(child, &fresh);
	if (own) { /* counted after it has its mark: see TaskMarks.none_left() */
		stat_add(AGENTD_STAT_FORKS, 1);
		own->flags |= fresh.flags; /* a mark made by the iterator has none */
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
	if (!tag || !in_charge())
		return 0;
	if (tag->flags & AGENTD_TAG_HELD)
		keep_end(task);
	if (tag->hold_id)
		tell(AGENTD_EVENT_GONE, 0, tag);
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
		tag->flags &= ~AGENTD_TAG_ASKED;
	} else {
		fresh.agent = tag_request.agent;
		fresh.workload = tag_request.workload;
		tag = mark(task, &fresh);
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
