// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What no better point covers, seen at the exit of the system call, before it returns to the program.
 *
 * tp_btf/sys_exit: one program; raw, so that 32-bit calls are seen too. Only the exit is traced: the arguments are still
 * in the registers, and half the cost for everybody else is saved.
 *
 * file.bpf.c     opens, by the file they got
 * names.bpf.c    unlink, rename, chmod, mount, ...: by the name in the caller's memory
 * words.bpf.c    namespaces, ptrace, bpf, io_uring, ...
 * socket.bpf.c   unusual sockets, unix sockets, listen
 *
 * 32-bit calls are an operation of their own (`compat`), and then the same as above.
 *
 * Also the second half of every hold: the SIGSTOP that cgroup programs can't send, and the end of a task that runs
 * although it is held.
 *
 * Only calls that succeeded are judged: one that failed had no effect, but for an open that created its file and then
 * failed (O_CREAT | O_DIRECT). Not judged: what needs a capability and names no object (reboot, swapon, sethostname, the
 * clock); System V and POSIX IPC; ioctls but for those of lib/ioctls.bpf.h. Signals to others are noted by held.bpf.c when they
 * are sent, and judged here.
 * Fails: to deny (kill).
 */
#include "lib/call.bpf.h"
#include "lib/ioctls.bpf.h"
#include "lib/supervised.bpf.h"
#include "lib/syscall.bpf.h"

#define NR_IOCTL 16
#define NR_IOCTL_32 54

/* Which operation an LSM hook must cover so that nothing of this kind of call is left to judge; plus one, 0: none does. */
static const u8 covered_by[CALL_KINDS] = {
	[CALL_OPEN] = 1 + AGENTD_OP_READ,
	[CALL_OPENAT] = 1 + AGENTD_OP_READ,
	[CALL_CREAT] = 1 + AGENTD_OP_READ,
	[CALL_OPENAT2] = 1 + AGENTD_OP_READ,
	[CALL_OPEN_BY_HANDLE] = 1 + AGENTD_OP_READ,
	[CALL_OPEN_BY_IOCTL] = 1 + AGENTD_OP_READ,
	[CALL_IOCTL] = 1 + AGENTD_OP_DELETE,
	[CALL_UNLINK] = 1 + AGENTD_OP_DELETE,
	[CALL_UNLINKAT] = 1 + AGENTD_OP_DELETE,
	[CALL_RENAME] = 1 + AGENTD_OP_RENAME,
	[CALL_RENAMEAT] = 1 + AGENTD_OP_RENAME,
	[CALL_LINK] = 1 + AGENTD_OP_LINK,
	[CALL_LINKAT] = 1 + AGENTD_OP_LINK,
	[CALL_SYMLINK] = 1 + AGENTD_OP_LINK,
	[CALL_SYMLINKAT] = 1 + AGENTD_OP_LINK,
	[CALL_MKDIR] = 1 + AGENTD_OP_CREATE,
	[CALL_MKDIRAT] = 1 + AGENTD_OP_CREATE,
	[CALL_TRUNCATE] = 1 + AGENTD_OP_WRITE,
	[CALL_MOUNT] = 1 + AGENTD_OP_MOUNT,
	[CALL_UMOUNT] = 1 + AGENTD_OP_MOUNT,
	[CALL_MOVE_MOUNT] = 1 + AGENTD_OP_MOUNT,
	[CALL_CHROOT] = 1 + AGENTD_OP_CHROOT,
	[CALL_PTRACE] = 1 + AGENTD_OP_PTRACE,
	[CALL_VM_READ] = 1 + AGENTD_OP_PTRACE,
	[CALL_VM_WRITE] = 1 + AGENTD_OP_PTRACE,
	[CALL_PIDFD_GETFD] = 1 + AGENTD_OP_PTRACE,
	[CALL_MOUNT_OTHER] = 1 + AGENTD_OP_MOUNT,
	[CALL_OPEN_TREE] = 1 + AGENTD_OP_MOUNT,
	[CALL_UNSHARE] = 1 + AGENTD_OP_NAMESPACE,
	[CALL_SETNS] = 1 + AGENTD_OP_NAMESPACE,
	[CALL_CLONE] = 1 + AGENTD_OP_NAMESPACE,
	[CALL_BPF] = 1 + AGENTD_OP_BPF,
	[CALL_MODULE] = 1 + AGENTD_OP_MODULE,
	[CALL_MODULE_REMOVE] = 1 + AGENTD_OP_MODULE,
	[CALL_KEXEC] = 1 + AGENTD_OP_KEXEC,
	[CALL_IO_URING] = 1 + AGENTD_OP_IO_URING,
	[CALL_PERF] = 1 + AGENTD_OP_PERF,
	[CALL_USERFAULTFD] = 1 + AGENTD_OP_PERF,
	[CALL_FANOTIFY] = 1 + AGENTD_OP_PERF,
	[CALL_SOCKET] = 1 + AGENTD_OP_SOCKET,
	[CALL_SETSOCKOPT] = 1 + AGENTD_OP_SOCKET,
	[CALL_CONNECT] = 1 + AGENTD_OP_UNIX_CONNECT,
	[CALL_LISTEN] = 1 + AGENTD_OP_LISTEN,
	[CALL_BIND] = 1 + AGENTD_OP_CREATE,
	[CALL_ACCEPT] = 1 + AGENTD_OP_ACCEPT,
	[CALL_SENDTO] = 1 + AGENTD_OP_UNIX_CONNECT,
	[CALL_SENDMSG] = 1 + AGENTD_OP_UNIX_CONNECT,
};

static __always_inline bool judged_before(const struct call *c)
{
	u32 op = covered_by[c->kind & (CALL_KINDS - 1)];

	if (op)
		return covered(op - 1);
	return c->kind >= CALL_SETATTR && c->kind <= CALL_FSETATTR && covered(AGENTD_OP_SETATTR);
}

/* The kind of an ioctl(): there are thousands, and these few matter. */
static __always_inline u32 ioctl_kind(const struct call *c)
{
	u32 request = argument(c, 1);

	if (opens_by_handle(request))
		return CALL_OPEN_BY_IOCTL;
	if (sets_attributes(request))
		return CALL_FSETATTR;
	return changes_elsewhere(request) ? CALL_IOCTL : CALL_NONE;
}

/* What is at hand: the file of a descriptor whose attributes were set, the new root that chroot has just made. */
static __noinline void judge_place(struct call *c)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct file *f;

	if (c->kind == CALL_IOCTL) {
		judge(c, changes_elsewhere((u32)argument(c, 1)), AGENTD_DETECTED, 0, 0);
		return;
	}
	if (c->kind == CALL_CHROOT) {
		judge(c, AGENTD_OP_CHROOT, AGENTD_DETECTED, 0,
		      path_resolve(c->slot, (u64)KREAD(task, fs, root.mnt), (u64)KREAD(task, fs, root.dentry),
				   AGENTD_PATH_MAX));
		return;
	}
	f = file_of((s32)argument(c, 0));
	judge(c, AGENTD_OP_SETATTR, AGENTD_DETECTED, 0, f ? path_of_file(c->slot, f) : 0);
}

static __always_inline void judge_call(struct call *c)
{
	struct scratch *s;
	u32 len;

	c->slot = scratch_take();
	s = scratch_get(c->slot);
	if (c->slot == NO_SLOT || !s) {
		kill_current(c->tag, NULL);
		return;
	}
	s->nr = c->nr;
	if (c->compat || c->nr & X32_BIT) {
		len = c->compat ? word_set(s, "i386") : word_set(s, "x32");
		/* The filter of `agentd run` hands all calls of the 32-bit table over. */
		if (!covered(AGENTD_OP_COMPAT) && !(c->compat && c->tag->flags & AGENTD_TAG_NOTIFIED) &&
		    !judge(c, AGENTD_OP_COMPAT, AGENTD_DETECTED, 0, len))
			goto out;
		if (judged_before(c) || supervised(c))
			goto out;
	}
	if (c->kind >= CALL_OPEN && c->kind <= CALL_OPEN_BY_IOCTL) {
		judge_open(c);
	} else if (c->kind == CALL_FSETATTR || c->kind == CALL_CHROOT || c->kind == CALL_IOCTL) {
		judge_place(c);
	} else if (listens_or_accepts(c)) {
		judge_listen(c);
	} else if (c->kind == CALL_SETSOCKOPT || (c->kind == CALL_SOCKETCALL && argument(c, 0) == SYS_SETSOCKOPT)) {
		judge_option(c);
	} else if (c->kind >= CALL_SOCKET) {
		judge_socket(c);
	} else if (c->kind >= CALL_UNSHARE || c->kind == CALL_MOUNT_OTHER) {
		judge_words(c);
	} else {
		judge_names(c);
	}
out:
	scratch_give(c->slot);
}

/* A task with something pending from an earlier verdict. True: nothing more to do at this exit. */
static __noinline bool settle(struct agentd_tag *tag, s64 ret)
{
	if (tag->flags & AGENTD_TAG_KILLED) {
		bpf_send_signal(SIGKILL); /* it runs still: the first one could not be sent */
		return true;
	}
	if (tag->flags & AGENTD_TAG_KILL_AT_EXIT) {
		kill_marked(tag);
		return true;
	}
	if (tag->flags & AGENTD_TAG_STOP) {
		tag->flags &= ~AGENTD_TAG_STOP;
		if (ret == -ERESTARTNOINTR) {
			if (bpf_send_signal(SIGSTOP)) /* it would see errno 513: better the end */
				kill_current(tag, NULL);
			return true;
		}
		tell(AGENTD_EVENT_GONE, 0, tag); /* sendmmsg: earlier messages went out, this one is given up */
		tag->hold_id = 0;
	}
	if (tag->flags & AGENTD_TAG_HELD) {
		if (tag->flags & AGENTD_TAG_FRESH) { /* the exit of the very execve that is held */
			tag->flags &= ~AGENTD_TAG_FRESH;
			return true;
		}
		if (!answered(tag->hold_id)) { /* it runs, and nobody said it may */
			tell(AGENTD_EVENT_ENDED, AGENTD_END_RAN, tag);
			kill_current(tag, NULL);
			return true;
		}
		hold_over(tag);
	}
	return false;
}

/* Signals that this call has sent to processes that are not of the workload: one of each kind is judged. */
static __noinline void judge_signals(struct call *c, u32 sent)
{
	struct scratch *s;
	u32 len;

	c->slot = scratch_take();
	s = scratch_get(c->slot);
	if (c->slot == NO_SLOT || !s) {
		kill_current(c->tag, NULL);
		return;
	}
	s->nr = c->nr;
	if (sent == AGENTD_TAG_SIGNALED_AGENTD) {
		judge_guarded(c, AGENTD_OP_SIGNAL, AGENTD_DETECTED, 0);
		scratch_give(c->slot);
		return;
	}
	len = sent & AGENTD_TAG_SIGNALED ? word_set(s, "signal:outside") : word_set(s, "signal:workload");
	judge(c, AGENTD_OP_SIGNAL, AGENTD_DETECTED, 0, len);
	scratch_give(c->slot);
}

#define SIGNALED_ANY (AGENTD_TAG_SIGNALED | AGENTD_TAG_SIGNALED_WORKLOAD | AGENTD_TAG_SIGNALED_AGENTD)

static __always_inline void settle_signals(struct call *c)
{
	u32 sent = c->tag->flags & SIGNALED_ANY;

	if (!sent)
		return;
	c->tag->flags &= ~sent;
	if (sent & AGENTD_TAG_SIGNALED_AGENTD)
		judge_signals(c, AGENTD_TAG_SIGNALED_AGENTD);
	if (sent & AGENTD_TAG_SIGNALED && !(c->tag->flags & AGENTD_TAG_KILLED))
		judge_signals(c, AGENTD_TAG_SIGNALED);
	if (sent & AGENTD_TAG_SIGNALED_WORKLOAD && !(c->tag->flags & AGENTD_TAG_KILLED))
		judge_signals(c, AGENTD_TAG_SIGNALED_WORKLOAD);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(syscall_returned, struct pt_regs *regs, long ret)
{
	struct agentd_tag *tag = current_tag();
	struct task_struct *task = bpf_get_current_task_btf();
	struct call c = {};
	u32 nr;

	if (!tag || tag->flags & AGENTD_TAG_ROOT_EXEC) /* the latter: agentd's own child, on its way to the exec */
		return 0;
	if (tag->flags & ~AGENTD_TAG_NOTIFIED && settle(tag, ret))
		return 0;
	c.nr = regs->orig_ax;
	if (c.nr < 0) /* rt_sigreturn, and calls that a debugger cancelled */
		return 0;
	c.ret = ret;
	c.tag = tag;
	c.regs = regs;
	c.compat = KREAD((struct task_struct___x86 *)task, thread_info.status) & TS_COMPAT;
	settle_signals(&c);
	nr = c.nr & ~X32_BIT;
	if (nr < SYSCALLS)
		c.kind = c.compat ? calls_32[nr & (SYSCALLS - 1)] : calls_64[nr & (SYSCALLS - 1)];
	if (nr == (c.compat ? NR_IOCTL_32 : NR_IOCTL))
		c.kind = ioctl_kind(&c);
	if (!c.kind && !c.compat && !(c.nr & X32_BIT))
		return 0;
	if (ret < 0)
		return 0;
	if (!c.compat && !(c.nr & X32_BIT) && (judged_before(&c) || supervised(&c)))
		return 0;
	judge_call(&c);
	return 0;
}
