/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What is agentd's own and has no path that a policy could name once and for all: its process, the files of it in /proc, and
 * the objects of bpf(), by their numbers and pins. No policy and no mode allows it. (Its files stand in the tables of every agent,
 * agentd/policy/guard.py.)
 */
#ifndef AGENTD_GUARD_BPF_H
#define AGENTD_GUARD_BPF_H

#include "act.bpf.h"

/* BPF_OBJ_GET; BPF_PROG_, MAP_, LINK_GET_FD_BY_ID */
#define BPF_TAKING_COMMANDS ((1ull << 7) | (1ull << 13) | (1ull << 14) | (1ull << 30))

static __always_inline void verdict_guard(struct verdict *v, u32 agent)
{
	const struct agentd_agent *ag = agent_get(agent);

	verdict_deny(v);
	if (ag)
		v->generation = ag->generation[ag->active & 1];
	v->rule = AGENTD_RULE_GUARD;
	v->toolop = 0xffffffff;
	v->unresolved = 0;
}

static __always_inline bool is_agentd(const struct task_struct *task)
{
	struct agentd_control *c = control_get();

	return c && c->daemon && (u32)KREAD(task, tgid) == c->daemon;
}

/* A file of /proc that belongs to agentd's process, or to one of its threads. */
static __always_inline bool is_proc_of_agentd(const struct inode *inode)
{
	struct hlist_node *first;
	struct proc_inode *proc;
	struct pid *pid;

	if (KREAD(inode, i_sb, s_magic) != PROC_SUPER_MAGIC)
		return false;
	proc = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	pid = KREAD(proc, pid);
	first = pid ? KREAD(pid, tasks[0].first) : NULL;
	return first && is_agentd((void *)first - bpf_core_field_offset(struct task_struct, pid_links));
}

/*
 * Does a file of /proc show a process's memory, or where it lies? Whoever may trace it may look (ptrace_access_check), and
 * on newer kernels (7.2; not 6.12) whoever has CAP_PERFMON, whatever that hook says. By the first four letters: maps, smaps
 * and smaps_rollup, numa_maps, environ, auxv, pagemap.
 */
static __always_inline bool shows_memory(const struct dentry *dentry)
{
	char name[4] = {};

	bpf_probe_read_kernel(name, sizeof(name), KREAD(dentry, d_name.name));
	switch ((u32)name[0] | (u32)name[1] << 8 | (u32)name[2] << 16 | (u32)name[3] << 24) {
	case 0x7370616d: /* maps */
	case 0x70616d73: /* smap */
	case 0x616d756e: /* numa */
	case 0x69766e65: /* envi */
	case 0x76787561: /* auxv */
	case 0x65676170: /* page */
		return true;
	}
	return false;
}

/* Would this command of bpf() take an object that is there, by its number or its pin, which may be agentd's? */
static __always_inline bool takes_what_is_there(u32 cmd)
{
	return cmd < 64 && BPF_TAKING_COMMANDS >> cmd & 1;
}

#endif
