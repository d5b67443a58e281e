/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The one gate: is this task in a workload? Task storage and nothing else: no pid, no comm, no cgroup. For a task that
 * was never tagged this is a NULL check of task->bpf_storage.
 */
#ifndef AGENTD_SCOPE_BPF_H
#define AGENTD_SCOPE_BPF_H

#include "load.bpf.h"
#include "maps.bpf.h"

static __always_inline struct agentd_control *control_get(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

/* Is `op` judged by LSM hooks on this host, before its effect? */
static __always_inline bool covered(u32 op)
{
	struct agentd_control *c = control_get();

	return c && c->prevented >> (op & 63) & 1;
}

/* Two sets of programs can be attached for a moment while one daemon takes over from another: only one is in charge. */
static __always_inline bool in_charge(void)
{
	struct agentd_control *c = control_get();

	return c && c->epoch == constants.epoch;
}

static __always_inline bool is_doomed(const struct agentd_control *c, const struct agentd_tag *tag)
{
	return c->doomed && bpf_map_lookup_elem(&doomed, &tag->workload);
}

#define PF_IO_WORKER 0x10

/* A task without any storage has no mark: two loads instead of a call, for everybody who is none of our business. */
static __always_inline bool nobodys(const struct task_struct *task)
{
	return !PLAIN(struct task_struct, task)->bpf_storage && !(task->flags & PF_IO_WORKER);
}

/*
 * The mark of the current task, or NULL: not in a workload, or not our turn. A task of a doomed workload is told to end
 * here (AGENTD_TAG_KILL_AT_EXIT), which every hook looks at.
 *
 * The threads that the kernel makes for io_uring (create_io_thread) pass no fork trace point and have no mark of their
 * own: they act for the process they are a thread of, and its leader's mark is theirs.
 */
static __always_inline struct agentd_tag *current_tag(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *tag;
	struct agentd_control *c;

	if (nobodys(task))
		return NULL;
	tag = bpf_task_storage_get(&tags, task, 0, 0);
	if (!tag && task->flags & PF_IO_WORKER)
		tag = bpf_task_storage_get(&tags, task->group_leader, 0, 0);
	if (!tag)
		return NULL;
	c = control_get();
	if (!c || c->epoch != constants.epoch)
		return NULL;
	if (is_doomed(c, tag))
		tag->flags |= AGENTD_TAG_KILL_AT_EXIT;
	return tag;
}

/*
 * Marks a task that has no mark yet; NULL when there is no memory. While `agentd tag` runs, its iterator on another CPU
 * may mark the same new task at the same moment: the one that comes second is refused (-EEXIST, or -EAGAIN from
 * bpf_local_storage_alloc), and finds the other's mark when it asks again. A refusal twice is want of memory.
 */
static __always_inline struct agentd_tag *mark(struct task_struct *task, struct agentd_tag *fresh)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, task, fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);

	return tag ?: bpf_task_storage_get(&tags, task, fresh, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline struct agentd_agent *agent_get(u32 index)
{
	return bpf_map_lookup_elem(&agents, &index);
}

#endif
