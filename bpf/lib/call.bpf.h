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
	u64 prevented; /* control.prevented */
};

/* Is `op` judged by LSM hooks on this host, before its effect? Then not here. */
static __always_inline bool covered(const struct call *c, u32 op)
{
	return c->prevented >> (op & 63) & 1;
}

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

static __always_inline struct emission *emission_of(const struct call *c, struct scratch *s, u32 op, u32 guarantee)
{
	struct emission *m = emission_begin(s, op, AGENTD_POINT_TRACE, guarantee);

	m->syscall = c->nr;
	m->flags = c->compat ? AGENTD_EVENT_FLAG_COMPAT : 0;
	return m;
}

/* Judges what stands in scratch->path (`len` bytes at its end; 0: unresolved). False: it ends the process. */
static __noinline bool judge(struct call *c, u32 op, u32 guarantee, u32 flags, u32 len)
{
	struct scratch *s = scratch_get(c->slot);
	u64 begin = bpf_ktime_get_ns();
	struct emission *m;
	struct verdict *v;

	if (!s) {
		kill_current(c->tag, NULL);
		return false;
	}
	v = &s->v[0];
	if (len)
		path_verdict(v, c->slot, c->tag->agent, op);
	else
		verdict_unresolved(v, c->tag->agent, op);
	verdict_time(begin);
	m = emission_of(c, s, op,
			guarantee); /* not earlier: what lives over a call is on the stack, of which 6.1 has no more */
	m->flags |= flags;
	m->object_off = s->path_off;
	m->object_len = len;
	if (c->tag->flags & AGENTD_TAG_HELD && v->decision != AGENTD_ALLOW) {
		/* by another object of this call: one question is asked, and a denial needs none */
		if (v->decision != AGENTD_DENY)
			return true;
		v->action = AGENTD_ACTION_KILL;
	}
	act(c->slot, c->tag, v, m, false);
	return !(c->tag->flags & AGENTD_TAG_KILLED);
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
