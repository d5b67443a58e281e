// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What is held after its effect stays held, whoever sends it SIGCONT (where there are no LSM hooks; their holds come before
 * the effect, and a call that is issued again is judged again); and library calls everywhere, which nobody issues again.
 *
 * tp_btf/signal_generate   counts the SIGCONTs that others send; a storm ends the process. Also notes signals that leave a
 *                          workload, which trace.bpf.c judges at the exit of the call
 * tp_btf/sched_exit_tp     a held task that was woken gets its SIGSTOP again, and work that ends it where that is not taken
 *
 * A task that wakes from a stop comes through sched_exit_tp on its own CPU, before it can ask what signals it has
 * (kernel/signal.c, do_signal_stop and get_signal). The SIGSTOP it gets there is what it finds then, and it stops, having run
 * nothing. A second SIGCONT in between takes that SIGSTOP back; so the task has work to do before it returns to user mode
 * (lib/keep.bpf.h), which kills it. No order of signals leads past both.
 *
 * Kernels before 6.18 have no such work, those before 6.16 no sched_exit_tp. Where they have trampolines, a held library call
 * can't come past two of them; agentd/kernel/holding.py loads them then:
 *
 * fexit/uprobe_notify_resume   between the probe, which held it, and the look at the signals
 * fexit/get_signal             between the look at the signals and user mode; whatever woke the task, it comes by here
 */
#include "lib/guard.bpf.h"
#include "lib/syscall.bpf.h"

/*
 * The mark of a process that waits for an answer which it has not got, or NULL. Whoever is in charge: when another set of
 * programs takes over, those that keep calls held come a moment later, and until then the old ones do.
 */
static __always_inline struct agentd_tag *held_process(struct task_struct *task)
{
	struct agentd_tag *tag = bpf_task_storage_get(&tags, task->group_leader, 0, 0);

	return tag && tag->process_hold && !answered(tag->process_hold) ? tag : NULL;
}

#define SELF_INTERRUPT_CHECKS 1000 /* some 20 us; it comes after some 100 ns. Used up: the task ends, by its work. */

static long until_stopped(u32 i, void *task)
{
	return stop_pending(*(struct task_struct **)task);
}

/*
 * With preemption off the signal travels by an interrupt to this CPU. It has to be there before the task looks, because one
 * that came later would find it at the door, and its work would take it for one that nobody stops.
 */
SEC("?tp_btf/sched_exit_tp")
int BPF_PROG(task_resumed)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *tag, *leader;

	if (nobodys(task))
		return 0;
	tag = bpf_task_storage_get(&tags, task, 0, 0);
	if (!tag)
		return 0;
	leader = held_process(task);
	if (!leader)
		return 0;
	bpf_send_signal(SIGSTOP);
	if (tag->flags & AGENTD_TAG_HELD)
		keep_here(task, false);
	bpf_loop(SELF_INTERRUPT_CHECKS, until_stopped, &task, 0);
	if (!held_process(task)) /* answered meanwhile, and perhaps woken before this SIGSTOP */
		bpf_send_signal(SIGCONT);
	return 0;
}

#define CONTINUES_ALLOWED 32 /* a shell's `fg`, a supervisor's habit; more is an attempt */

/* Is it one of those that mistakes send? Not when another came in the same millisecond or the one before. */
static __always_inline bool forgivable(struct agentd_tag *held)
{
	bool alone = !just_continued(held);

	held->continued_ms = now_ms();
	return __sync_fetch_and_add(&held->continued, 1) < CONTINUES_ALLOWED && alone;
}

#define SI_TIMER (-2)
#define SI_KERNEL_LOWEST 1 /* codes from here on are the kernel's: a child that ended, a broken pipe */

static __always_inline bool sends_signals(s32 nr, bool compat)
{
	if (compat)
		return nr == 37 || nr == 178 || nr == 238 || nr == 270 || nr == 335 || nr == 424;
	nr &= ~X32_BIT;
	/* kill, rt_sigqueueinfo (x32: 524), tkill, tgkill, rt_tgsigqueueinfo (x32: 536), pidfd_send_signal */
	return nr == 62 || nr == 129 || nr == 524 || nr == 200 || nr == 234 || nr == 297 || nr == 536 || nr == 424;
}

/*
 * Under the receiver's siglock, so only a mark. What the kernel sends while a task runs (timers, the end of a child) is not
 * the task's doing: only a call that sends signals is looked at.
 */
static __always_inline void note_signal(struct task_struct *from, struct task_struct *to, struct kernel_siginfo *info)
{
	struct agentd_tag *sender = bpf_task_storage_get(&tags, from, 0, 0), *other;

	if (!sender || covered(AGENTD_OP_SIGNAL) || !sends_signals(syscall_number(), syscall_compat()))
		return;
	if ((u64)info > 1 && KREAD(info, si_code) >= SI_KERNEL_LOWEST)
		return;
	if (is_agentd(to)) {
		__sync_fetch_and_or(&sender->flags, AGENTD_TAG_SIGNALED_AGENTD);
		return;
	}
	other = bpf_task_storage_get(&tags, to, 0, 0);
	if (!other)
		__sync_fetch_and_or(&sender->flags, AGENTD_TAG_SIGNALED);
	else if (other->workload != sender->workload)
		__sync_fetch_and_or(&sender->flags, AGENTD_TAG_SIGNALED_WORKLOAD);
}

/*
 * Runs in the sender, under the receiver's siglock. A storm ends what is held, by SIGKILL, which no SIGCONT takes back, and
 * a sender that is tagged. Kernels before 6.13 can't signal another task: there the receiver ends at its next exit.
 *
 * The time is kept of any tagged process: one that gets SIGCONTs just now can't be held (lib/act.bpf.h).
 */
SEC("tp_btf/signal_generate")
int BPF_PROG(signal_generated, int sig, struct kernel_siginfo *info, struct task_struct *to, int group, int result)
{
	struct task_struct *from = bpf_get_current_task_btf();
	struct agentd_control *c = control_get();
	struct agentd_tag *held, *sender;

	if (!nobodys(from))
		note_signal(from, to, info);
	if (sig != SIGCONT || nobodys(to) || !c || c->epoch != constants.epoch)
		return 0;
	held = held_process(to);
	if (!held) {
		held = bpf_task_storage_get(&tags, to->group_leader, 0, 0);
		if (held && from->tgid != c->daemon && from->tgid != to->tgid)
			held->continued_ms = now_ms();
		return 0;
	}
	if (!(held->continued & CONTINUED_ENDS) && forgivable(held)) {
		if (bpf_send_signal_task)
			bpf_send_signal_task(to, SIGSTOP, PIDTYPE_TGID, 0);
		return 0;
	}
	if (bpf_send_signal_task)
		bpf_send_signal_task(to, SIGKILL, PIDTYPE_TGID, 0);
	if (!(__sync_fetch_and_or(&held->continued, CONTINUED_ENDS) & CONTINUED_ENDS))
		tell(AGENTD_EVENT_ENDED, AGENTD_END_CONTINUED, held);
	sender = bpf_task_storage_get(&tags, from, 0, 0);
	if (sender)
		sender->flags |= AGENTD_TAG_KILL_AT_EXIT; /* of the kill(2) that brought it here */
	return 0;
}

/*
 * A held task that is on its way to user mode gets its SIGSTOP, and with it another look at the signals: it stops in there,
 * or, if a SIGCONT has taken the SIGSTOP back, comes by here again. The flag that makes it look is taken off by itself alone,
 * in get_signal() and when it has stepped over the instruction under the probe (handle_singlestep), and both are over.
 * Fails: no tag, no hold: it runs on. Left out by the kernel where that preempts tasks (kernel/recursion.py): such a
 * policy is refused there.
 */
static __always_inline void bar_the_way(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *tag, *leader;

	if (nobodys(task))
		return;
	tag = bpf_task_storage_get(&tags, task, 0, 0);
	if (!tag || !(tag->flags & AGENTD_TAG_HELD) || answered(tag->hold_id))
		return;
	leader = bpf_task_storage_get(&tags, task->group_leader, 0, 0);
	if (!leader || leader->continued & CONTINUED_ENDS) {
		kill_current(tag, NULL);
		return;
	}
	bpf_send_signal(SIGSTOP);
	if (answered(tag->hold_id)) /* meanwhile, and perhaps woken before this SIGSTOP */
		bpf_send_signal(SIGCONT);
}

SEC("?fexit/uprobe_notify_resume")
int BPF_PROG(probe_passed, struct pt_regs *regs)
{
	bar_the_way();
	return 0;
}

struct ksignal;

SEC("?fexit/get_signal")
int BPF_PROG(signals_taken, struct ksignal *ksig, bool got)
{
	bar_the_way();
	return 0;
}
