// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Calls whose object is a word (trace point): namespaces, ptrace, bpf, modules, kexec, io_uring, perf.
 *
 * detected, or contained where what was got is a descriptor or a child that has not run yet. The namespaces of a new
 * child are read from the child itself, not from the arguments of clone.
 */
#include "lib/call.bpf.h"
#include "lib/namespaces.bpf.h"

#define PTRACE_TRACEME 0
#define PTRACE_ATTACH 16
#define PTRACE_SEIZE 0x4206

/* The new child's own look at itself: which namespaces are not its parent's? As the flags that would have asked for them. */
static __always_inline u64 namespaces_apart(void)
{
	struct task_struct *task = bpf_get_current_task_btf(), *up = KREAD(task, real_parent);
	struct nsproxy *mine = KREAD(task, nsproxy), *theirs = KREAD(up, nsproxy);
	u64 flags = 0;

	if (KREAD(task, cred, user_ns) != KREAD(up, cred, user_ns))
		flags |= CLONE_NEWUSER;
	if (mine == theirs || !mine || !theirs)
		return flags;
	if (KREAD(mine, mnt_ns) != KREAD(theirs, mnt_ns))
		flags |= CLONE_NEWNS;
	if (KREAD(mine, pid_ns_for_children) != KREAD(theirs, pid_ns_for_children))
		flags |= CLONE_NEWPID;
	if (KREAD(mine, net_ns) != KREAD(theirs, net_ns))
		flags |= CLONE_NEWNET;
	if (!flags)
		flags = CLONE_NEWUTS;
	return flags;
}

static __noinline void judge_words(struct call *c)
{
	struct scratch *s = scratch_get(c->slot);
	u32 op, len = 0, guarantee = AGENTD_DETECTED;
	u64 first = argument(c, 0);
	bool alias;

	if (!s) {
		kill_current(c->tag, NULL);
		return;
	}
	switch (c->kind) {
	case CALL_UNSHARE:
		op = AGENTD_OP_NAMESPACE;
		len = unshare_word(s, first);
		break;
	case CALL_SETNS:
		op = AGENTD_OP_NAMESPACE;
		len = word_set(s, "setns");
		break;
	case CALL_CLONE: /* in the child, which has not run yet */
		if (c->ret)
			return;
		op = AGENTD_OP_NAMESPACE;
		guarantee = AGENTD_CONTAINED;
		len = namespace_word(s, namespaces_apart());
		break;
	case CALL_PTRACE:
		op = AGENTD_OP_PTRACE;
		if (first == PTRACE_ATTACH || first == PTRACE_SEIZE)
			len = word_set(s, "ptrace:attach");
		else if (first == PTRACE_TRACEME)
			len = word_set(s, "ptrace:traceme");
		break;
	case CALL_VM_READ:
		op = AGENTD_OP_PTRACE;
		len = word_set(s, "ptrace:process_vm_readv");
		break;
	case CALL_VM_WRITE:
		op = AGENTD_OP_PTRACE;
		len = word_set(s, "ptrace:process_vm_writev");
		break;
	case CALL_PIDFD_GETFD:
		op = AGENTD_OP_PTRACE;
		guarantee = AGENTD_CONTAINED;
		len = word_set(s, "ptrace:pidfd_getfd");
		break;
	case CALL_BPF:
		if (takes_what_is_there(argument(c, 0))) {
			judge_guarded(c, AGENTD_OP_BPF, AGENTD_DETECTED, 0);
			return;
		}
		op = AGENTD_OP_BPF;
		len = word_set(s, "bpf");
		break;
	case CALL_MODULE:
	case CALL_MODULE_REMOVE:
		op = AGENTD_OP_MODULE;
		len = word_set(s, "module");
		break;
	case CALL_KEXEC:
		op = AGENTD_OP_KEXEC;
		len = word_set(s, "kexec_load");
		break;
	case CALL_IO_URING:
		op = AGENTD_OP_IO_URING;
		guarantee = c->nr == 425 ? AGENTD_CONTAINED : AGENTD_DETECTED;
		len = word_set(s, "io_uring_setup");
		break;
	case CALL_PERF:
		op = AGENTD_OP_PERF;
		guarantee = AGENTD_CONTAINED;
		len = word_set(s, "perf_event_open");
		break;
	case CALL_FANOTIFY:
		op = AGENTD_OP_PERF;
		guarantee = AGENTD_CONTAINED;
		len = word_set(s, "fanotify_init");
		break;
	case CALL_USERFAULTFD:
		op = AGENTD_OP_PERF;
		guarantee = AGENTD_CONTAINED;
		len = word_set(s, "userfaultfd");
		break;
	case CALL_MOUNT_OTHER:
		op = AGENTD_OP_MOUNT;
		len = word_set(s, "mount");
		break;
	default:
		return;
	}
	if (!len) /* this use of the call is of no interest */
		return;
	alias = op == AGENTD_OP_MOUNT;
	if (!judge(c, op, guarantee, alias ? AGENTD_EVENT_FLAG_DOOMED : 0, len) && alias)
		doom(c->tag);
}
