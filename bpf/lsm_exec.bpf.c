// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * exec, before the effect (LSM hook; see lib/prevent.bpf.h).
 *
 * bprm_check_security runs once for the file that was named and once for each interpreter behind it, so a script and its
 * interpreter are judged each for itself. The arguments are read where execve has put them, in the address space of the
 * program to be (pages.bpf.c): nobody can change them any more.
 *
 * The dynamic loader that a program names is not asked about here, and anything can stand there: it is `read`, by file_open
 * (lsm_file.bpf.c), which is told that it comes next (agentd_tag.marked).
 *
 * When an interpreter is held, the whole execve comes again, and the script with it: what was approved in this attempt is
 * not asked again (agentd_tag.granted). An attempt that isn't a held one that comes again begins with nothing approved: one
 * that failed for another reason (ENOEXEC) has used up its approval.
 */
#include "lib/prevent.bpf.h"
#include "lib/syscall.bpf.h"

#define MAX_ARG_BYTES (AGENTD_ARGV_CHUNKS * AGENTD_ARGV_CHUNK)

static __always_inline int judge_program(struct agentd_tag *tag, u32 slot, struct linux_binprm *bprm)
{
	struct scratch *s = scratch_get(slot);
	struct file *file = bprm->file;
	int error;

	if (!s)
		return -EPERM;
	s->program.pgd = (u64)KREAD(bprm, mm, pgd);
	s->program.args = KREAD(bprm, p);
	s->program.args_end = s->program.args + MAX_ARG_BYTES;
	s->program.argc = KREAD(bprm, argc);
	target_set(s, 0, AGENTD_OP_EXEC, KREAD(file, f_path.mnt), KREAD(file, f_path.dentry));
	error = shared_answer(slot, JUDGE_PROGRAM, AGENTD_OP_EXEC, 0);
	if (!error) /* where it may be kept, `walked` says under what */
		file_remember(&s->walked[0], tag, file, MEMORY_EXEC, s->hit);
	return error;
}

/*
 * Is it the operator's own command line, with which a workload begins? The trace point that takes the mark for it off can be left
 * out, where the kernel preempts tasks; a second address space is a second program. (`granted` is free until then.)
 */
static __always_inline bool begins_workload(struct agentd_tag *tag)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 mm = (u64)task->mm;

	if (!(tag->flags & AGENTD_TAG_ROOT_EXEC))
		return false;
	if (!tag->granted[0])
		tag->granted[0] = mm;
	if (tag->granted[0] == mm)
		return true;
	tag->flags &= ~AGENTD_TAG_ROOT_EXEC;
	tag->granted[0] = 0;
	return false;
}

#define ELF_MAGIC 0x464c457f

/* The program may run. What an execve opens next is its dynamic loader, if it is one for the kernel itself. */
static __always_inline int may_run(struct agentd_tag *tag, const struct linux_binprm *bprm)
{
	u32 magic = 0;

	bpf_probe_read_kernel(&magic, sizeof(magic), bprm->buf);
	tag->marked = magic == ELF_MAGIC ? syscall_mark() : 0;
	return 0;
}

SEC("?lsm/bprm_check_security")
int BPF_PROG(lsm_bprm_check_security, struct linux_binprm *bprm)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	u32 slot;
	int error;

	if (!tag || begins_workload(tag))
		return 0;
	SHARED_FIRST();
	bprm = PLAIN(struct linux_binprm, bprm);
	tag->marked = 0;
	if (KREAD(bprm, interp) == KREAD(bprm, filename)) { /* the first look of this attempt */
		if (!(tag->flags & AGENTD_TAG_AGAIN))
			tag->granted[0] = tag->granted[1] = 0;
		tag->flags &= ~AGENTD_TAG_AGAIN;
	}
	if (!constants.check && recalled(tag, bprm->file->f_inode, bprm->file, 1 << MEMORY_EXEC, NULL))
		return may_run(tag, bprm);
	s = begin(&slot);
	if (!s)
		return -EPERM;
	if (constants.check && recalled_to_check(slot, tag, bprm->file, 1 << MEMORY_EXEC)) {
		target_set(s, 0, AGENTD_OP_EXEC, bprm->file->f_path.mnt, bprm->file->f_path.dentry);
		shared(slot, CHECK_FILE, 0, 1 << MEMORY_EXEC);
		scratch_give(slot);
		return may_run(tag, bprm);
	}
	error = judge_program(tag, slot, bprm);
	scratch_give(slot);
	return error ?: may_run(tag, bprm);
}
