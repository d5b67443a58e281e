/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Pipes and memory of another process: what has no name anywhere, and is opened by way of the descriptor of a process that
 * has it (/proc/PID/fd). `write` and `read` of `anon:pipefs/outside` and `anon:tmpfs/outside`.
 */
#ifndef AGENTD_STRANGERS_BPF_H
#define AGENTD_STRANGERS_BPF_H

#include "opened.bpf.h"

#define SB_KERNMOUNT_FLAG (1ul << 22)
#define PIPEFS_MAGIC 0x50495045
#define TMPFS_MAGIC 0x01021994

/* Not a file that has a name on some disk: looked at first, because the other look is a walk of pointers. */
static __always_inline bool may_be_nameless(const struct inode *inode)
{
	return (inode->i_mode & S_IFMT_BITS) != S_IFREG_BITS || !inode->i_nlink;
}

/* A pipe or memory that has no name anywhere, and is only reached through a process that has it open. */
static __always_inline bool is_nameless(const struct inode *inode)
{
	const struct super_block *sb = inode->i_sb;

	return sb->s_flags & SB_KERNMOUNT_FLAG && (sb->s_magic == PIPEFS_MAGIC || sb->s_magic == TMPFS_MAGIC);
}

#define FMODE_PATH 0x4000
#define DESCRIPTORS_MAX 65536

struct descriptors {
	struct file **fd;
	const struct inode *sought;
	bool found;
};

static long descriptor_look(u32 i, struct descriptors *d)
{
	struct file *file = NULL;

	if (bpf_probe_read_kernel(&file, sizeof(file), &d->fd[i]) || !file || KREAD(file, f_inode) != d->sought ||
	    KREAD(file, f_mode) & FMODE_PATH) /* that is the name again, and gives no access */
		return 0;
	d->found = true;
	return 1;
}

/* Has the current process that open already? Then it opens its own, by /proc/self/fd. */
static __noinline bool has_open(const struct inode *inode)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdtable *table = KREAD(task, files, fdt);
	struct descriptors d = { .sought = inode };
	u32 count;

	if (!table)
		return false;
	d.fd = KREAD(table, fd);
	count = KREAD(table, max_fds);
	bpf_loop(count < DESCRIPTORS_MAX ? count : DESCRIPTORS_MAX, descriptor_look, &d, 0);
	return d.found;
}

/* What another process has open, and this one not: whoever writes there talks to it, whoever reads takes it away. */
static __always_inline bool is_strangers(struct file *file)
{
	const struct inode *inode = PLAIN(struct file, file)->f_inode;

	return is_nameless(inode) && !has_open(inode);
}

static __always_inline int judge_strangers(struct agentd_tag *tag, struct file *file)
{
	bool pipe = PLAIN(struct file, file)->f_inode->i_sb->s_magic == PIPEFS_MAGIC;
	u32 slot, len, kinds = open_kinds(file);
	int error = -EPERM;
	struct scratch *s;

	s = begin(&slot);
	if (!s)
		return error;
	len = pipe ? word_set(s, "anon:pipefs/outside") : word_set(s, "anon:tmpfs/outside");
	error = 0;
	if (kinds & 1 << MEMORY_WRITE)
		error = shared_answer(slot, JUDGE_WORD, AGENTD_OP_WRITE, len);
	if (!error && kinds & 1 << MEMORY_READ)
		error = shared_answer(slot, JUDGE_WORD, AGENTD_OP_READ, len);
	scratch_give(slot);
	return error;
}

#endif
