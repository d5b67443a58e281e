// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What touches another process, before the effect (LSM hooks; see lib/prevent.bpf.h): `signal`, by whose process it is:
 * signal:outside (of no workload), signal:workload (of another one).
 *
 * task_kill                              signals
 * task_setrlimit, task_setscheduler, task_setnice, task_setioprio, task_movememory
 *                                        limits (of RLIMIT_CPU a process dies, by the kernel's own SIGKILL), processors, time,
 *                                        disks, nodes of memory
 * ptrace_access_check                    ptrace, process_vm_readv and writev, pidfd_getfd; and prctl, which asks for less, for the
 *                                        scheduling of others (process_madvise: lsm_privileges.bpf.c)
 * file_fcntl                             who gets the signals of a descriptor: the kernel sends them (F_SETSIG: any), and asks
 *                                        nobody. By ioctl(): lsm_attributes.bpf.c
 * file_send_sigiotask                    the guard: none of those for agentd
 *
 * The guard: what touches agentd's own process is denied whatever the policy says, as ptrace_access_check does too.
 */
#include "lib/refuse.bpf.h"
#include "lib/syscall.bpf.h"

static __always_inline int judge_other(struct task_struct *victim)
{
	struct agentd_tag *tag = current_tag(), *other;
	struct scratch *s;
	u32 slot, len;
	int error;

	if (!tag)
		return 0;
	other = bpf_task_storage_get(&tags, victim, 0, 0);
	if (other && other->workload == tag->workload)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	len = other ? word_set(s, "signal:workload") : word_set(s, "signal:outside");
	/* now: others may have got theirs already (kill(-1)) */
	error = shared_answer(slot, JUDGE_WORD_NOW, AGENTD_OP_SIGNAL, len);
	scratch_give(slot);
	return error;
}

SEC("?lsm/task_kill")
int BPF_PROG(lsm_task_kill, struct task_struct *victim, struct kernel_siginfo *info, int sig)
{
	if (is_agentd(victim))
		return guard_refuses(AGENTD_OP_SIGNAL);
	if (!sig) /* asks whether it is there */
		return 0;
	return judge_other(victim);
}

SEC("?lsm/task_setrlimit")
int BPF_PROG(lsm_task_setrlimit, struct task_struct *victim)
{
	return guard(victim) ?: judge_other(victim);
}

SEC("?lsm/task_setscheduler")
int BPF_PROG(lsm_task_setscheduler, struct task_struct *victim)
{
	return guard(victim) ?: judge_other(victim);
}

SEC("?lsm/task_setnice")
int BPF_PROG(lsm_task_setnice, struct task_struct *victim)
{
	return guard(victim) ?: judge_other(victim);
}

SEC("?lsm/task_setioprio")
int BPF_PROG(lsm_task_setioprio, struct task_struct *victim)
{
	return guard(victim) ?: judge_other(victim);
}

SEC("?lsm/task_movememory")
int BPF_PROG(lsm_task_movememory, struct task_struct *victim)
{
	return guard(victim) ?: judge_other(victim);
}

#define PTRACE_MODE_ATTACH 2

SEC("?lsm/ptrace_access_check")
int BPF_PROG(lsm_ptrace_access_check, struct task_struct *child, unsigned int mode)
{
	int error = guard(child);

	if (error)
		return error;
	if (mode & PTRACE_MODE_ATTACH)
		return PREVENT_WORD(AGENTD_OP_PTRACE, "ptrace:attach");
	if (syscall_is(157, 172))
		return judge_other(child);
	return 0; /* reading /proc/PID: judged by the file */
}

#define F_SETOWN 8
#define F_SETOWN_EX 15

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct upid {
	int nr;
};
struct pid___numbers { /* one for each namespace from the host's to its own */
	unsigned int level;
	struct upid numbers[1];
};
#pragma clang attribute pop

/* Is that the number of the current process, as it sees it itself? 0 is nobody's. */
static __always_inline bool own_number(s32 number)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pid___numbers *pid = (void *)KREAD(task, signal, pids[PIDTYPE_TGID]);
	const struct upid *at;

	if (!number)
		return true;
	if (!pid)
		return false;
	at = (void *)pid + bpf_core_field_offset(struct pid___numbers, numbers) +
	     KREAD(pid, level) * bpf_core_type_size(struct upid);
	return KREAD(at, nr) == number;
}

/*
 * A process may have the signals of its descriptors itself. What F_SETOWN_EX names stands in the caller's memory, which another
 * thread can change: whoever it is, it counts as somebody else.
 */
SEC("?lsm/file_fcntl")
int BPF_PROG(lsm_file_fcntl, struct file *file, u32 command, unsigned long argument)
{
	if (command != F_SETOWN_EX && (command != F_SETOWN || own_number(argument)))
		return 0;
	return PREVENT_WORD(AGENTD_OP_SIGNAL, "signal:outside");
}

/* In whoever made something to read, or in an interrupt: nobody to name. */
SEC("?lsm/file_send_sigiotask")
int BPF_PROG(lsm_file_send_sigiotask, struct task_struct *victim)
{
	return is_agentd(victim) ? -EPERM : 0;
}
