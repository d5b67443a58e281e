/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What keeps a task in the kernel that is held after its effect (exec, open; where there are no LSM hooks), whoever sends it
 * SIGCONT: work that it has to do before it returns to user mode (bpf_task_work, Linux 6.18). There it dies, unless it was
 * answered or is about to stop.
 *
 * keepers  one piece of work for each held task, by its id. Full: the task can't be held, and is denied.
 */
#ifndef AGENTD_KEEP_BPF_H
#define AGENTD_KEEP_BPF_H

#include "emit.bpf.h"

#define SIGKILL 9
#define SIGCONT 18
#define SIGSTOP 19

/* since 6.13 */
extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type, u64 value) __ksym __weak;
/* 6.18; the loader takes it out where its prototype is another (kernel/compat.py) */
extern int bpf_task_work_schedule_resume_impl(struct task_struct *task, struct bpf_task_work *tw, void *map__map,
					      bpf_task_work_callback_t callback, void *aux__prog) __ksym __weak;
/* since 7.0, the last argument is the verifier's to give */
extern int bpf_task_work_schedule_resume(struct task_struct *task, struct bpf_task_work *tw, void *map__map,
					 bpf_task_work_callback_t callback) __ksym __weak;

/* since 6.2: work may sleep, and reads what RCU guards under its lock only */
extern void bpf_rcu_read_lock(void) __ksym __weak;
extern void bpf_rcu_read_unlock(void) __ksym __weak;

#define KEEPERS 4096

struct keeper {
	struct bpf_task_work work;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KEEPERS);
	__type(key, u32);
	__type(value, struct keeper);
} keepers SEC(".maps");

/* In the leader's tag->continued, which the senders of SIGCONT count in: that was one too many, the process ends. */
#define CONTINUED_ENDS 0x80000000u

static __always_inline bool answered(u64 hold_id)
{
	return bpf_map_lookup_elem(&answers, &hold_id) != NULL;
}

/* Is a SIGSTOP on its way to the process? */
static __always_inline bool stop_pending(struct task_struct *task)
{
	return KREAD(task, signal, shared_pending.signal.sig[0]) >> (SIGSTOP - 1) & 1;
}

/*
 * In the held task, on its way to user mode: from resume_user_mode_work(), or at the top of get_signal(). It comes here when
 * it was held just now and is about to take its first SIGSTOP; or because a SIGCONT took back the one that answers another
 * SIGCONT (held.bpf.c), and then nothing else would keep it from running.
 */
static int keep_from_running(struct bpf_map *map, void *key, void *value)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *tag = bpf_task_storage_get(&tags, task, 0, 0), *leader;
	bool stops = stop_pending(task);
	u32 before = CONTINUED_ENDS;

	if (!tag || !(tag->flags & AGENTD_TAG_HELD) || answered(tag->hold_id))
		return 0;
	bpf_rcu_read_lock();
	leader = bpf_task_storage_get(&tags, task->group_leader, 0, 0);
	if (leader)
		before = stops ? leader->continued : __sync_fetch_and_or(&leader->continued, CONTINUED_ENDS);
	bpf_rcu_read_unlock();
	if (stops && !(before & CONTINUED_ENDS))
		return 0;
	if (!(before & CONTINUED_ENDS))
		tell(AGENTD_EVENT_ENDED, AGENTD_END_RAN, tag);
	bpf_send_signal(SIGKILL);
	tag->flags |= AGENTD_TAG_KILLED;
	return 0;
}

/* The work of the current task; `fresh`: made anew. NULL: there is no room for it. */
static __always_inline struct keeper *keeper_of(struct task_struct *task, bool fresh)
{
	struct keeper none = {};
	u32 tid = task->pid;

	if (fresh && bpf_map_update_elem(&keepers, &tid, &none, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&keepers, &tid);
}

/*
 * Gives the current task, which is held, its work. It has it already: that stays. False: it can't have any. Before Linux
 * 6.18 there is no such work, and what a task that runs on does next ends it (trace.bpf.c).
 */
static __always_inline bool keep_here(struct task_struct *task, bool fresh)
{
	struct keeper *keeper = keeper_of(task, fresh);

	if (!keeper)
		return false;
	if (bpf_task_work_schedule_resume)
		bpf_task_work_schedule_resume(task, &keeper->work, &keepers, keep_from_running);
	else if (bpf_task_work_schedule_resume_impl)
		bpf_task_work_schedule_resume_impl(task, &keeper->work, &keepers, keep_from_running, NULL);
	return true;
}

static __always_inline void keep_end(struct task_struct *task)
{
	u32 tid = task->pid;

	bpf_map_delete_elem(&keepers, &tid);
}

#endif
