// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Opens (trace point): judged by the struct file they got, so that `..`, symlinks and races of names mean nothing.
 *
 * contained: killed or stopped before the descriptor is returned. Where the descriptor table is shared with another
 * thread, that thread may have used it meanwhile: detected, and the record says so. The creation or truncation that an
 * open brings along is an effect already: detected.
 */
#include "lib/call.bpf.h"
#include "lib/guard.bpf.h"

#define FMODE_PATH 0x4000

/*
 * A device node that does not stand in /dev: its name says nothing about what it opens (mknod in the workspace gives the
 * disk), so it counts as unresolved.
 */
static __always_inline bool stray_device(u32 slot, struct file *f)
{
	struct scratch *s = scratch_get(slot);

	return s && is_node(KREAD(f, f_inode)) && !in_dev(s);
}

/* What the guard forbids, seen at the exit of the call: the end. The object: `len` bytes of path, or `agentd`. */
static __noinline void judge_guarded(struct call *c, u32 op, u32 guarantee, u32 len)
{
	struct scratch *s = scratch_get(c->slot);
	struct emission *m;

	if (!s) {
		kill_current(c->tag, NULL);
		return;
	}
	verdict_guard(&s->v[0], c->tag->agent);
	s->hash[0] = s->hash[1] = 0;
	if (!len)
		len = word_set(s, "agentd");
	m = emission_begin(s, op, AGENTD_POINT_TRACE, guarantee);
	m->syscall = c->nr;
	m->flags = event_flags(c);
	m->object_off = s->path_off;
	m->object_len = len;
	act(c->slot, c->tag, &s->v[0], m, false);
}

static __noinline void judge_open(struct call *c)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *f = file_of(c->ret);
	u32 mode, len, flags = 0, guarantee = AGENTD_CONTAINED;
	u64 how = 0;

	switch (c->kind) {
	case CALL_OPEN:
		how = argument(c, 1);
		break;
	case CALL_OPENAT:
	case CALL_OPEN_BY_HANDLE:
		how = argument(c, 2);
		break;
	case CALL_CREAT:
		how = O_TRUNC;
		break;
	case CALL_OPENAT2: /* struct open_how begins with flags */
		if (bpf_probe_read_user(&how, sizeof(how), (void *)argument(c, 2)))
			how = O_TRUNC;
		break;
	}
	if (KREAD(task, files, count.counter) > 1) {
		guarantee = AGENTD_DETECTED;
		flags = AGENTD_EVENT_FLAG_SHARED_FDS;
	}
	if (!f) { /* closed or replaced by another thread before we looked: what it was, nobody knows */
		judge(c, AGENTD_OP_READ, AGENTD_DETECTED, flags, 0);
		return;
	}
	mode = KREAD(f, f_mode);
	if (mode & FMODE_PATH) /* gives no access; opening it again is judged then */
		return;
	len = path_of_file(c->slot, f);
	if (len && stray_device(c->slot, f))
		len = 0;
	if (mode & FMODE_WRITE && is_proc_of_agentd(KREAD(f, f_inode))) {
		judge_guarded(c, AGENTD_OP_WRITE, guarantee, len);
		return;
	}
	/* writing is judged first: it is the one that is denied when only reading is allowed */
	if (mode & FMODE_CREATED && !judge(c, AGENTD_OP_CREATE, AGENTD_DETECTED, flags, len))
		return;
	if (mode & FMODE_CREATED) /* emitting an event uses the buffer */
		len = path_of_file(c->slot, f);
	if (mode & FMODE_WRITE || how & O_TRUNC) {
		if (!judge(c, AGENTD_OP_WRITE, how & O_TRUNC ? AGENTD_DETECTED : guarantee, flags, len))
			return;
		if (mode & FMODE_READ)
			len = path_of_file(c->slot, f);
	}
	if (mode & FMODE_READ || !(mode & (FMODE_READ | FMODE_WRITE)))
		judge(c, AGENTD_OP_READ, guarantee, flags, len);
}
