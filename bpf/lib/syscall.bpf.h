/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which system call is in progress, as a hook inside it sees: from the registers that the task entered the kernel with.
 * No other thread can change them; a tracer could, before the call began. They mean nothing in a thread that the kernel
 * made (a worker of io_uring): that one has never been in user mode.
 */
#ifndef AGENTD_SYSCALL_BPF_H
#define AGENTD_SYSCALL_BPF_H

#include "act.bpf.h"

#define TS_COMPAT 2
#define X32_BIT 0x40000000
#define NO_SYSCALL (-1)

static __always_inline bool syscall_compat(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return ((struct task_struct___x86 *)task)->thread_info.status & TS_COMPAT;
}

/* The number as it was asked for, X32_BIT included; of the 32-bit table if syscall_compat(). NO_SYSCALL: none. */
static __always_inline s32 syscall_number(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pt_regs *regs;

	if (task->flags & PF_KTHREAD_OR_WORKER)
		return NO_SYSCALL;
	regs = (struct pt_regs *)bpf_task_pt_regs(task);
	return regs->orig_ax;
}

/* Is it the call that has this number in the 64-bit table (x32 too), or that one in the 32-bit table? */
static __always_inline bool syscall_is(u32 wide, u32 narrow)
{
	s32 number = syscall_number();

	return number >= 0 && (syscall_compat() ? (u32)number == narrow : ((u32)number & ~X32_BIT) == wide);
}

/* Is it of another table than the 64-bit one? */
static __always_inline bool syscall_foreign(void)
{
	struct task_struct *task = bpf_get_current_task_btf(); /* asked once: everything that is remembered comes by */
	s32 number;

	if (((struct task_struct___x86 *)task)->thread_info.status & TS_COMPAT)
		return true;
	if (task->flags & PF_KTHREAD_OR_WORKER)
		return false;
	number = ((struct pt_regs *)bpf_task_pt_regs(task))->orig_ax;
	return number > 0 && number & X32_BIT;
}

/* What tells a call of the task from its others, but for one that is issued again: odd. */
static __always_inline u64 syscall_mark(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	u64 h = KREAD(regs, di);

	h = h * 31 + KREAD(regs, si);
	h = h * 31 + KREAD(regs, dx);
	h = h * 31 + KREAD(regs, r10);
	h = h * 31 + KREAD(regs, bx);
	h = h * 31 + KREAD(regs, cx);
	h = h * 31 + KREAD(regs, sp);
	return h | 1;
}

/* Its third argument, as the register held it when it began: the same one in both tables. */
static __always_inline u64 syscall_third(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());

	return syscall_compat() ? (u32)KREAD(regs, dx) : KREAD(regs, dx);
}

/* Its first argument, as the register held it when it began. */
static __always_inline u64 syscall_first(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());

	return syscall_compat() ? (u32)KREAD(regs, bx) : KREAD(regs, di);
}

#endif
