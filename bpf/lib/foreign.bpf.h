/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Files that a workload has open from before its mark: a descriptor that its first program inherits, or what a process
 * had when `agentd tag` came. Opened by somebody else, they were judged by nobody. User space lists them and puts those
 * that the policy doesn't allow in the map `foreign` (engine/descriptors.py): whoever of the workload uses one is judged
 * as if it opened the file now.
 *
 * By inode and not by descriptor: what is passed on, duplicated or opened again is the same file. The map only says
 * where to look; the verdict is that of the path, so an inode that is used again for another file costs time and nothing
 * else.
 */
#ifndef AGENTD_FOREIGN_BPF_H
#define AGENTD_FOREIGN_BPF_H

#include "prevent.bpf.h"

/* file: as a number read from memory, or the hook's own. */
static __always_inline bool is_foreign(const struct agentd_tag *tag, struct file *file)
{
	struct agentd_foreign_key key = { .workload = tag->workload };
	struct agentd_control *c = control_get();

	if (!c || !c->foreign)
		return false;
	key.inode = KREAD(file, f_inode, i_ino);
	key.device = KREAD(file, f_inode, i_sb, s_dev);
	return bpf_map_lookup_elem(&foreign, &key);
}

/* kinds: bits of enum memory_kind. 0, or the errno. */
static __always_inline int judge_foreign(struct agentd_tag *tag, struct file *file, u32 kinds)
{
	u64 mnt = (u64)KREAD(file, f_path.mnt), dentry = (u64)KREAD(file, f_path.dentry);
	struct scratch *s;
	u32 slot, count = 0;
	int error;

	s = begin(&slot);
	if (!s)
		return -EPERM;
	if (kinds & 1 << MEMORY_WRITE)
		target_set(s, count++, AGENTD_OP_WRITE, (void *)mnt, (void *)dentry);
	if (kinds & 1 << MEMORY_READ)
		target_set(s, count++, AGENTD_OP_READ, (void *)mnt, (void *)dentry);
	s->target[0].node = s->target[1].node = is_node(KREAD(file, f_inode));
	error = shared_answer(slot, JUDGE_TARGETS, 0, count);
	scratch_give(slot);
	return error;
}

#endif
