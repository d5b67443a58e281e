// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What a workload has open from before its mark (lib/foreign.bpf.h).
 *
 * iter/task_file list_files   a line for each descriptor of a workload on something that has a path
 * file_permission             every use of one: read, write, sendfile, splice, getdents, io_uring (LSM hook, attached
 *                             while the map `foreign` has entries); to map one is judged in lsm_memory.bpf.c
 * file_truncate               ftruncate() of one, which asks no file_permission (Linux 6.2; before, it comes by
 *                             path_truncate)
 *
 * Guarantee: prevented, but for memory that was mapped before the mark.
 */
#include "lib/foreign.bpf.h"

#define MAY_WRITE 2 /* include/linux/fs.h */
#define MAY_READ 4
#define FMODE_READ_WRITE 3

SEC("iter/task_file")
int list_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct agentd_file_line line = {};
	struct agentd_tag *tag;
	u32 type;

	if (!task || !file)
		return 0;
	tag = bpf_task_storage_get(&tags, task, 0, 0);
	if (!tag || (tag_request.workload && tag->workload != tag_request.workload))
		return 0;
	type = KREAD(file, f_inode, i_mode) & S_IFMT_BITS;
	line.mode = (u32)KREAD(file, f_mode) & FMODE_READ_WRITE;
	if (!line.mode ||
	    (type != S_IFREG_BITS && type != S_IFDIR_BITS && type != S_IFBLK_BITS && type != S_IFCHR_BITS))
		return 0;
	line.pid = task->tgid;
	line.tid = task->pid;
	line.fd = ctx->fd;
	line.agent = tag->agent;
	line.workload = tag->workload;
	line.inode = KREAD(file, f_inode, i_ino);
	line.device = KREAD(file, f_inode, i_sb, s_dev);
	bpf_seq_write(ctx->meta->seq, &line, sizeof(line));
	return 0;
}

SEC("?lsm/file_permission")
int BPF_PROG(lsm_file_permission, struct file *file, int mask)
{
	struct agentd_tag *tag = current_tag();
	u32 kinds = 0;

	if (!tag || tag->flags & AGENTD_TAG_ROOT_EXEC || !is_foreign(tag, file))
		return 0;
	if (mask & MAY_WRITE)
		kinds |= 1 << MEMORY_WRITE;
	if (mask & MAY_READ)
		kinds |= 1 << MEMORY_READ;
	return kinds ? judge_foreign(tag, file, kinds) : 0;
}

SEC("?lsm/file_truncate")
int BPF_PROG(lsm_file_truncate, struct file *file)
{
	struct agentd_tag *tag = current_tag();

	if (!tag || tag->flags & AGENTD_TAG_ROOT_EXEC || !is_foreign(tag, file))
		return 0;
	return judge_foreign(tag, file, 1 << MEMORY_WRITE);
}
