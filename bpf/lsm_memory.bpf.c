// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Memory that is made executable, before the effect (LSM hooks; see lib/prevent.bpf.h): `execmem`, by the file that it shows,
 * or as `anon:memory` where the process can write there what it then runs.
 *
 * mmap_file        libraries, and code that is made in place; to show a file from before the mark is to use it
 * file_mprotect    memory that is written first and made executable then; a private copy of a file that was written to
 *                  is no longer that file
 *
 * Not the program itself (`exec` judged it), but its dynamic loader, which no other hook sees. What a debugger writes is
 * `ptrace`, /proc/PID/mem is a file.
 */
#include "lib/foreign.bpf.h"
#include "lib/opened.bpf.h"

#define PROT_READ 1
#define PROT_WRITE 2
#define PROT_EXEC 4
#define MAP_TYPE 15
#define MAP_PRIVATE 2
#define VM_WRITE 2
#define VM_EXEC 4
#define VM_SHARED 8
#define READ_IMPLIES_EXEC 0x0400000 /* linux/personality.h */

/* file: as a number read from memory; NULL: none. */
static __always_inline int judge_code(struct agentd_tag *tag, struct file *file)
{
	struct scratch *s;
	u32 slot;
	int error;

	s = begin(&slot);
	if (!s)
		return -EPERM;
	if (file) {
		target_set(s, 0, AGENTD_OP_EXECMEM, KREAD(file, f_path.mnt), KREAD(file, f_path.dentry));
		error = shared_answer(slot, JUDGE_TARGETS, 0, 1);
	} else {
		error = shared_answer(slot, JUDGE_WORD, AGENTD_OP_EXECMEM, word_set(s, "anon:memory"));
	}
	scratch_give(slot);
	return error;
}

static __always_inline bool own_program(const struct file *file)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return KREAD(file, f_inode) == KREAD(task, mm, exe_file, f_inode);
}

/* What a mapping of `file` may come to: mprotect() can make a shared one of a file that is open to write writable. */
static __always_inline u32 shown_kinds(struct file *file, u64 flags)
{
	bool writes = (flags & MAP_TYPE) != MAP_PRIVATE && KREAD(file, f_mode) & FMODE_WRITE;

	return 1 << MEMORY_READ | (writes ? 1 << MEMORY_WRITE : 0);
}

/* Linux hands `lsm` programs the protection as it was asked for besides the one that will be, `fmod_ret` only the former. */
SEC("?lsm/mmap_file")
int lsm_mmap_file(u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *file = (struct file *)ctx[0];
	struct agentd_control *c;
	struct agentd_tag *tag;
	u64 prot, flags, first = 0;

	if (nobodys(task))
		return 0;
	if (!constants.sockets) { /* fmod_ret */
		prot = ctx[1];
		flags = ctx[2];
		if (prot & PROT_READ && task->personality & READ_IMPLIES_EXEC)
			prot |= PROT_EXEC;
	} else {
		prot = ctx[2];
		flags = ctx[3];
	}
	c = control_get();
	if (!(prot & PROT_EXEC) && c && !c->foreign) /* most of them, before the mark is looked for */
		return 0;
	tag = current_tag();
	if (!tag || tag->flags & AGENTD_TAG_ROOT_EXEC)
		return 0;
	SHARED_FIRST();
	/* as memory: Linux before 7.0 takes it for granted that there is a file, and drops a test for NULL */
	bpf_probe_read_kernel(&first, sizeof(first), ctx);
	if (first && is_foreign(tag, (struct file *)first)) {
		int error = judge_foreign(tag, (struct file *)first, shown_kinds((struct file *)first, flags));

		if (error)
			return error;
	}
	if (!(prot & PROT_EXEC))
		return 0;
	if (!first || !file || (prot & PROT_WRITE && (flags & MAP_TYPE) == MAP_PRIVATE))
		return judge_code(tag, NULL);
	return own_program(file) ? 0 : judge_file(tag, file, 1 << MEMORY_CODE);
}

SEC("?lsm/file_mprotect")
int BPF_PROG(lsm_file_mprotect, struct vm_area_struct *area, unsigned long before, unsigned long prot)
{
	struct agentd_tag *tag;
	struct file *file;
	unsigned long now;

	if (!(prot & PROT_EXEC))
		return 0;
	tag = current_tag();
	if (!tag || tag->flags & AGENTD_TAG_ROOT_EXEC)
		return 0;
	now = KREAD(area, vm_flags);
	if (now & VM_EXEC && (now & VM_WRITE || !(prot & PROT_WRITE)))
		return 0; /* it was that already */
	file = KREAD(area, vm_file);
	if (!(now & VM_SHARED) && (prot & PROT_WRITE || KREAD(area, anon_vma)))
		file = NULL;
	return judge_code(tag, file);
}
