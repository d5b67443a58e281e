/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * After the verdict: tell user space. Nothing here changes a verdict; a full ring is counted and ends as a gap record.
 */
#ifndef AGENTD_EMIT_BPF_H
#define AGENTD_EMIT_BPF_H

#include "met.bpf.h"
#include "path.bpf.h"
#include "verdict.bpf.h"

#define DATA_MASK (AGENTD_PATH_MAX * 4 - 1)

/* Starts the description of an event in scratch->m. */
static __always_inline struct emission *emission_begin(struct scratch *s, u32 op, u32 point, u32 guarantee)
{
	struct emission *m = &s->m;

	__builtin_memset(m, 0, sizeof(*m));
	m->op = op;
	m->point = point;
	m->guarantee = guarantee;
	m->syscall = -1;
	return m;
}

static __always_inline void event_process(struct agentd_event *e, const struct agentd_tag *tag)
{
	struct task_struct *task = PLAIN(struct task_struct, bpf_get_current_task_btf());
	u64 ids = bpf_get_current_pid_tgid();

	e->agent = tag->agent;
	e->workload = tag->workload;
	e->pid = ids >> 32;
	e->tid = ids;
	e->uid = bpf_get_current_uid_gid();
	e->cgroup = bpf_get_current_cgroup_id();
	e->start_time = task->group_leader->start_boottime;
	e->ppid = task->real_parent->tgid;
	e->parent_start_time = task->real_parent->group_leader->start_boottime;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
}

/*
 * Tells user space something without an object. AGENTD_EVENT_GONE: nobody waits for this hold any more (lost: the hold ends
 * by its timeout). AGENTD_EVENT_ENDED: see enum agentd_end. The process is the current one.
 */
static __always_inline void tell(u32 type, u32 reason, const struct agentd_tag *tag)
{
	struct agentd_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		stat_add(AGENTD_STAT_LOST_EVENTS, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->type = type;
	e->reason = reason;
	e->syscall = -1;
	e->time = bpf_ktime_get_boot_ns();
	e->hold_id = tag->hold_id;
	e->op = tag->hold_op;
	event_process(e, tag);
	bpf_ringbuf_submit(e, 0);
}

/* Copies the object out of scratch->path, behind the event. Returns its length. */
static __always_inline u32 event_object(struct scratch *s, struct agentd_event *e, const struct emission *m)
{
	u32 len = m->object_len;

	if (len > AGENTD_PATH_MAX)
		len = AGENTD_PATH_MAX;
	bpf_probe_read_kernel(s->data, bounded(len, 2 * AGENTD_PATH_MAX - 1),
			      &s->path[m->object_off & (AGENTD_PATH_MAX - 1)]);
	e->object_len = len;
	return len;
}

/* Sends scratch->path as an event. Returns 0 if it was lost. */
__noinline int emit(u32 slot, const struct agentd_tag *tag, const struct verdict *v, const struct emission *m)
{
	struct scratch *s = scratch_get(slot);
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_event *e;
	u32 pos, len;
	u64 start, end, size;

	if (!s || !tag || !v || !m)
		return 0;
	e = &s->event;
	__builtin_memset(e, 0, sizeof(*e));
	e->type = m->type;
	e->flags = m->flags | (v->unresolved ? AGENTD_EVENT_FLAG_UNRESOLVED : 0);
	e->time = bpf_ktime_get_boot_ns();
	e->hold_id = m->hold_id;
	e->key[0] = m->key[0];
	e->key[1] = m->key[1];
	e->generation = v->generation;
	e->outcome = v->outcome;
	e->rule = v->rule;
	e->toolop = v->toolop;
	e->timeout = v->timeout;
	e->decision = v->decision;
	e->risk = v->risk;
	e->op = m->op;
	e->action = m->action;
	e->point = m->point;
	e->guarantee = m->guarantee;
	e->syscall = m->syscall;
	event_process(e, tag);

	pos = event_object(s, e, m);
	if (m->details) {
		struct file *exe = KREAD(task, mm, exe_file);

		len = exe ? path_of_file(slot, exe) : 0;
		if (len > AGENTD_PATH_MAX)
			len = 0;
		bpf_probe_read_kernel(&s->data[pos & DATA_MASK], bounded(len, 2 * AGENTD_PATH_MAX - 1),
				      &s->path[(AGENTD_PATH_MAX - len) & (AGENTD_PATH_MAX - 1)]);
		e->exe_len = len;
		pos += len;
		if (m->argv_kept) {
			len = m->argv_kept;
			if (s->args.failed || s->args.index < s->args.argc || len >= AGENTD_ARGV_KEPT)
				e->flags |= AGENTD_EVENT_FLAG_ARGV_CUT;
			bpf_probe_read_kernel(&s->data[pos & DATA_MASK], bounded(len, 2 * AGENTD_ARGV_KEPT - 1),
					      s->name[1]);
			e->argv_len = len;
			pos += len;
			goto send;
		}
		start = KREAD(task, mm, arg_start);
		end = KREAD(task, mm, arg_end);
		len = end > start ? (end - start > AGENTD_ARGV_KEPT ? AGENTD_ARGV_KEPT : end - start) : 0;
		if (end - start > AGENTD_ARGV_KEPT)
			e->flags |= AGENTD_EVENT_FLAG_ARGV_CUT;
		if (len && bpf_probe_read_user(&s->data[pos & DATA_MASK], bounded(len, 2 * AGENTD_ARGV_KEPT - 1),
					       (void *)start)) {
			e->flags |= AGENTD_EVENT_FLAG_ARGV_CUT;
			len = 0;
		}
		e->argv_len = len;
		pos += len;
	}
send:
	size = sizeof(*e) + (pos & DATA_MASK);
	return !bpf_ringbuf_output(&events, e, size, 0);
}

/*
 * Sends the object in scratch->path as the name behind scratch->count_key: nothing of its process, and nobody is woken before
 * half of the ring is full, because the counts are read every few seconds. Returns 0 if it was lost.
 */
__noinline int emit_name(u32 slot, const struct emission *m)
{
	const u32 header = sizeof(struct agentd_count_key);
	struct scratch *s = scratch_get(slot);
	u32 len, off;
	u64 wake;

	if (!s || !m)
		return 0;
	len = m->object_len > AGENTD_PATH_MAX ? AGENTD_PATH_MAX : m->object_len;
	off = m->object_off;
	wake = bpf_ringbuf_query(&seen, BPF_RB_AVAIL_DATA) > SEEN_BYTES / 2 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
	if (off >= header) { /* a path stands at the end of the buffer: the key is put in front of it */
		off = (off - header) & (AGENTD_PATH_MAX - 1);
		__builtin_memcpy(&s->path[off], &s->count_key, header);
		return !bpf_ringbuf_output(&seen, &s->path[off], header + bounded(len, 2 * AGENTD_PATH_MAX - 1), wake);
	}
	__builtin_memcpy(s->data, &s->count_key, header);
	bpf_probe_read_kernel(&s->data[header], bounded(len, 2 * AGENTD_PATH_MAX - 1), &s->path[off & (header - 1)]);
	return !bpf_ringbuf_output(&seen, s->data, header + bounded(len, 2 * AGENTD_PATH_MAX - 1), wake);
}

static __always_inline struct agentd_count *counts_find(bool second, const struct agentd_count_key *key)
{
	return second ? bpf_map_lookup_elem(&counts1, key) : bpf_map_lookup_elem(&counts0, key);
}

/* Counts an operation exactly, by its verdict and object. 0: there is no room for its key. */
__noinline int count_operation(u32 slot, const struct agentd_tag *tag, const struct verdict *v, struct emission *m)
{
	struct scratch *s = scratch_get(slot);
	struct agentd_control *c = control_get();
	struct agentd_count *fresh, *count = NULL;
	struct agentd_count_key *key;
	bool second;

	if (!s || !c || !tag || !v || !m)
		return 0;
	key = &s->count_key;
	fresh = &s->count_fresh;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	key->agent = tag->agent;
	key->generation = v->generation;
	key->outcome = v->outcome;
	key->op = m->op;
	key->object[0] = s->hash[0];
	key->object[1] = s->hash[1];
	s->hit = 0;
	second = *(volatile u32 *)&c->counts & 1;
	fresh->last = bpf_ktime_get_boot_ns();
	if (!m->fresh)
		count = counts_find(second, key);
	if (!count) {
		u32 number = 0;
		long failed;

		fresh->first = fresh->last;
		fresh->point = m->point;
		fresh->count = 1;
		if (constants.memory && v->decision == AGENTD_ALLOW)
			number = hit_if_met(c, fresh, key);
		failed = second ? bpf_map_update_elem(&counts1, key, fresh, BPF_NOEXIST) :
				  bpf_map_update_elem(&counts0, key, fresh, BPF_NOEXIST);
		if (!failed) { /* ours is the first of this key: say what it stands for */
			if (!emit_name(slot, m))
				stat_add(AGENTD_STAT_LOST_SEEN, 1);
			s->hit = number;
			return 1;
		}
		count = counts_find(second, key);
	} else if (constants.memory && v->decision == AGENTD_ALLOW) {
		s->hit = hit_number(c, count, key);
	}
	if (!count)
		return 0;
	__sync_fetch_and_add(&count->count, 1);
	count->last = fresh->last; /* racing writers differ by nanoseconds */
	return 1;
}

/* An allowed operation: counted, or sent as an event of its own. False: neither was possible, it is lost (and counted). */
__noinline int report_allowed(u32 slot, const struct agentd_tag *tag, const struct verdict *v, struct emission *m)
{
	if (!tag || !v || !m)
		return false;
	if (count_operation(slot, tag, v, m))
		return true;
	m->type = AGENTD_EVENT_ALLOWED;
	if (emit(slot, tag, v, m))
		return true;
	stat_add(AGENTD_STAT_LOST_COUNTS, 1);
	return false;
}

/*
 * A denial: an event of its own. A workload that makes them faster than user space reads finds the ring full; then they
 * are counted like allowed operations, exactly and by object, and only what can't be counted either is lost.
 */
__noinline int report_denied(u32 slot, const struct agentd_tag *tag, const struct verdict *v, struct emission *m)
{
	struct scratch *s = scratch_get(slot);
	u32 len;

	if (!tag || !v || !m)
		return 0;
	len = m->object_len;
	if (emit(slot, tag, v, m))
		return 0;
	/* emit() has used the path buffer for the program's path; the object stands in data */
	if (s && len <= AGENTD_PATH_MAX) {
		bpf_probe_read_kernel(&s->path[m->object_off & (AGENTD_PATH_MAX - 1)],
				      bounded(len, 2 * AGENTD_PATH_MAX - 1), s->data);
		m->details = false;
		if (count_operation(slot, tag, v, m))
			return 0;
	}
	stat_add(AGENTD_STAT_LOST_EVENTS, 1);
	return 0;
}

__noinline int verdict_time(u64 begin)
{
	u64 ns = bpf_ktime_get_ns() - begin;
	u32 bucket = 0;

	stat_add(AGENTD_STAT_VERDICTS, 1);
	stat_add(AGENTD_STAT_VERDICT_NS, ns);
	for (u64 left = ns >> 8; left && bucket < 15; left >>= 1)
		bucket++;
	stat_add(AGENTD_STAT_BUCKET0 + bucket, 1);
	return 0;
}

#endif
