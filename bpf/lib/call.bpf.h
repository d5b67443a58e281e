/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* One system call at its exit, as the files of the trace point see it: its arguments, its descriptors, its verdict. */
#ifndef AGENTD_CALL_BPF_H
#define AGENTD_CALL_BPF_H

#include "act.bpf.h"
#include "syscalls.bpf.h"

struct call {
	struct agentd_tag *tag;
	struct pt_regs *regs;
	u32 slot;
	u32 kind;
	s32 nr;
	bool compat;
	s64 ret;
};

static __always_inline u64 argument(const struct call *c, u32 n)
{
	struct pt_regs *r = c->regs;

	if (c->compat) {
		switch (n) {
		case 0:
			return (u32)r->bx;
		case 1:
			return (u32)r->cx;
		case 2:
			return (u32)r->dx;
		case 3:
			return (u32)r->si;
		case 4:
			return (u32)r->di;
		default:
			return (u32)r->bp;
		}
	}
	switch (n) {
	case 0:
		return r->di;
	case 1:
		return r->si;
	case 2:
		return r->dx;
	case 3:
		return r->r10;
	case 4:
		return r->r8;
	default:
		return r->r9;
	}
}

static __always_inline u32 event_flags(const struct call *c)
{
	return c->compat ? AGENTD_EVENT_FLAG_COMPAT : 0;
}

/*
 * Judges what stands in scratch->path (`len` bytes at its end; 0: unresolved), of the system call scratch->nr. 0: it ends
 * the process.
 */
__noinline int judge_object(u32 slot, u32 op, u32 guarantee, u32 flags, u32 len)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, bpf_get_current_task_btf(), 0, 0);
	struct scratch *s = scratch_get(slot);
	u64 begin = bpf_ktime_get_ns();
	struct emission *m;
	struct verdict *v;

	if (!tag || !s) {
		bpf_send_signal(SIGKILL);
		return 0;
	}
	v = &s->v[0];
	if (len)
		path_verdict(v, slot, tag->agent, op);
	else
		verdict_unresolved(v, tag->agent, op);
	verdict_time(begin);
	/* not earlier: what lives over a call is on the stack, of which Linux 6.1 has no more */
	m = emission_begin(s, op, AGENTD_POINT_TRACE, guarantee);
	m->syscall = s->nr;
	m->flags = flags;
	m->object_off = s->path_off;
	m->object_len = len;
	if (tag->flags & AGENTD_TAG_HELD && v->decision != AGENTD_ALLOW) {
		/* by another object of this call: one question is asked, and a denial needs none */
		if (v->decision != AGENTD_DENY)
			return 1;
		v->action = AGENTD_ACTION_KILL;
	}
	act(slot, tag, v, m, false);
	return !(tag->flags & AGENTD_TAG_KILLED);
}

static __always_inline bool judge(const struct call *c, u32 op, u32 guarantee, u32 flags, u32 len)
{
	return judge_object(c->slot, op, guarantee, flags | event_flags(c), len);
}

static __always_inline struct file *file_of(s64 fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdtable *fdt = KREAD(task, files, fdt);
	struct file **slots, *f = NULL;

	if (fd < 0 || !fdt || fd >= KREAD(fdt, max_fds))
		return NULL;
	slots = KREAD(fdt, fd);
	if (bpf_probe_read_kernel(&f, sizeof(f), &slots[fd]))
		return NULL;
	return f;
}

#endif
