// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A core dump is a file that the kernel makes for a process: no system call does it, so neither trace.bpf.c nor the seccomp
 * filter sees it. It has the process's memory in it, and its working directory is where it comes to lie: a crash in a
 * denied folder would write there what the program likes. LSM hooks judge it as any other file.
 *
 * tp_btf/signal_deliver    a signal that is about to make a core dump: the process gets SIGKILL instead
 *
 * The trace point comes before the dump and under the process's siglock. The SIGKILL travels by an interrupt to this CPU,
 * which waits until the lock is released (bpf_send_signal_common in kernel/trace/bpf_trace.c), and then has begun the end
 * of the process; of one that ends no dump is made (zap_threads in fs/coredump.c). With PREEMPT_RT the lock leaves
 * interrupts on, and the signal would wait for the lock that its sender has: agentd/kernel/prepare.py starts nothing there.
 *
 * Which name the file would get only the kernel knows (core_pattern(5)), so it is unresolved, and denied. Nothing is done
 * where nothing would be written (RLIMIT_CORE is 0, which is usual), or where the program has a handler.
 * Fails: to deny (kill).
 */
#include "lib/act.bpf.h"

#define RLIMIT_CORE 4
/* sig_kernel_coredump() in linux/signal.h */
#define DUMPING                                                                                      \
	(1ull << 3 /* QUIT */ | 1ull << 4 /* ILL */ | 1ull << 5 /* TRAP */ | 1ull << 6 /* ABRT */ |  \
	 1ull << 7 /* BUS */ | 1ull << 8 /* FPE */ | 1ull << 11 /* SEGV */ | 1ull << 24 /* XCPU */ | \
	 1ull << 25 /* XFSZ */ | 1ull << 31 /* SYS */)

static __noinline void refuse_dump(struct agentd_tag *tag)
{
	const struct agentd_agent *agent = agent_get(tag->agent);
	u32 slot = scratch_take();
	struct scratch *s = scratch_get(slot);
	struct emission *m;

	if (slot == NO_SLOT || !s) {
		kill_current(tag, NULL);
		return;
	}
	verdict_unresolved(&s->v[0], tag->agent, AGENTD_OP_CREATE);
	s->v[0].decision = AGENTD_DENY; /* there is no time to ask anybody */
	m = emission_begin(s, AGENTD_OP_CREATE, AGENTD_POINT_TRACE, AGENTD_PREVENTED);
	m->details = true;
	m->type = AGENTD_EVENT_VIOLATION;
	if (agent && agent->flags & AGENTD_AGENT_MONITOR)
		m->flags |= AGENTD_EVENT_FLAG_MONITOR;
	else
		kill_current(tag, m);
	report_denied(slot, tag, &s->v[0], m);
	scratch_give(slot);
}

SEC("tp_btf/signal_deliver")
int BPF_PROG(signal_delivered, int sig, struct kernel_siginfo *info, struct k_sigaction *ka)
{
	struct agentd_tag *tag;

	if (sig < 0 || sig > 31 || !(DUMPING >> sig & 1) || KREAD(ka, sa.sa_handler))
		return 0;
	tag = current_tag();
	if (!tag || tag->flags & AGENTD_TAG_KILLED ||
	    !KREAD(bpf_get_current_task_btf(), signal, rlim[RLIMIT_CORE].rlim_cur))
		return 0;
	refuse_dump(tag);
	return 0;
}
