// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Copies of a library that a process brings along (a Python wheel, a container's file system, a program with the library
 * inside): before the process runs on with a file that nobody has looked at, it is stopped, and user space sets the
 * probes that the file wants.
 *
 * tp_btf/sys_exit: of mmap, mprotect and pkey_mprotect with PROT_EXEC, and of execve.
 *
 * Guarantee: contained, as the probes themselves are. The stop is a SIGSTOP: another process of the workload that sends
 * SIGCONT at once ends it early. Code that comes into memory in other ways (written there, or by 32-bit calls) is no
 * library call.
 * Maps: `known_code` is written by user space, which empties it when it is full: files are looked at again. `new_code`
 * full: the file isn't remembered as known, and the next process that maps it is stopped again.
 */
#define SYSCALL_MMAP 9
#define SYSCALL_MPROTECT 10
#define SYSCALL_EXECVE 59
#define SYSCALL_EXECVEAT 322
#define SYSCALL_PKEY_MPROTECT 329
#define PROT_EXEC 4
#define MAP_ANONYMOUS 0x20

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, AGENTD_KNOWN_CODE);
	__type(key, struct agentd_code);
	__type(value, u32);
} known_code SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32); /* process */
	__type(value, struct agentd_code);
} new_code SEC(".maps");

struct mapping {
	struct agentd_code code;
	bool is_file;
};

static __always_inline void code_of(struct mapping *m, struct file *file)
{
	struct inode *inode = file ? KREAD(file, f_inode) : NULL;

	if (!inode)
		return;
	m->is_file = true;
	m->code.inode = KREAD(inode, i_ino);
	m->code.device = KREAD(inode, i_sb, s_dev);
	m->code.changed = changed(inode);
}

static long mapping_found(struct task_struct *task, struct vm_area_struct *vma, struct mapping *m)
{
	code_of(m, KREAD(vma, vm_file));
	return 0;
}

/* The address in which a call that succeeded has made a file's code executable. 0: none. */
static __always_inline u64 made_executable(struct pt_regs *regs, u32 call, long ret)
{
	if (call == SYSCALL_MMAP && regs->dx & PROT_EXEC && !(regs->r10 & MAP_ANONYMOUS))
		return ret;
	if ((call == SYSCALL_MPROTECT || call == SYSCALL_PKEY_MPROTECT) && regs->dx & PROT_EXEC)
		return regs->di;
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(code_mapped, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *tag = caller_tag();
	struct mapping m = {};
	u32 call, process = bpf_get_current_pid_tgid() >> 32;
	u64 address;

	if (!tag || tag->flags & (AGENTD_TAG_ROOT_EXEC | AGENTD_TAG_KILLED))
		return 0;
	if (tag->flags & AGENTD_TAG_LOOKED_AT)
		tag->flags &= ~AGENTD_TAG_LOOKED_AT; /* it runs again */
	if ((ret < 0 && ret >= -4095) || syscall_compat())
		return 0;
	call = regs->orig_ax;
	if (call == SYSCALL_EXECVE || call == SYSCALL_EXECVEAT) {
		code_of(&m, KREAD(task, mm, exe_file));
	} else {
		address = made_executable(regs, call, ret);
		if (!address)
			return 0;
		if (bpf_find_vma(task, address, mapping_found, &m, 0))
			m.is_file = true; /* somebody holds the lock of the address space: an unknown file */
	}
	if (!m.is_file || bpf_map_lookup_elem(&known_code, &m.code))
		return 0;
	if (m.code.inode)
		bpf_map_update_elem(&new_code, &process, &m.code, BPF_ANY);
	tag->flags |= AGENTD_TAG_LOOKED_AT;
	if (bpf_send_signal(SIGSTOP))
		kill_current(tag, NULL);
	else
		tell(AGENTD_EVENT_MAPPED, 0, tag);
	return 0;
}
