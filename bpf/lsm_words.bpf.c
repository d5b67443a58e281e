// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Calls whose object is a word, before the effect (LSM hooks; see lib/prevent.bpf.h).
 *
 * ptrace_traceme                         (what touches others: lsm_others.bpf.c)
 * task_prctl                             a program that takes another one's place in /proc/PID/exe
 * userns_create                          the other namespaces: task_alloc for clone(), lsm_privileges.bpf.c for the rest
 * bpf, perf_event_open, kernel_read_file, kernel_load_data
 * kernel_module_request                  a module that the kernel would load by itself, because a call needs it
 * key_alloc                              request_key(), for which the kernel starts /sbin/request-key, outside the workload
 * task_alloc                             a child gets its mark before it exists, io_uring's workers too; no memory for
 *                                        the mark: the fork fails
 */
#include "lib/namespaces.bpf.h"
#include "lib/refuse.bpf.h"
#include "lib/syscall.bpf.h"

#define READING_MODULE \
	2 /* enum kernel_read_file_id; kernel_load_data_id has the same numbers (linux/kernel_read_file.h) */
#define READING_KEXEC_IMAGE 3
#define READING_KEXEC_INITRAMFS 4
#define ENOMEM 12

SEC("?lsm/ptrace_traceme")
int BPF_PROG(lsm_ptrace_traceme, struct task_struct *parent)
{
	return PREVENT_WORD(AGENTD_OP_PTRACE, "ptrace:traceme");
}

#define PR_SET_MM 35
#define PR_SET_MM_EXE_FILE 13
#define PR_SET_MM_MAP 14

/*
 * Records, approvals and `execmem` know a process by the file that it runs. (0 lets the kernel's own answer stand, which is
 * -ENOSYS, and the call goes on.)
 */
SEC("?lsm/task_prctl")
int BPF_PROG(lsm_task_prctl, int option, unsigned long second)
{
	u32 what = second; /* of the register the kernel takes that half, too */

	if (option != PR_SET_MM || (what != PR_SET_MM_EXE_FILE && what != PR_SET_MM_MAP))
		return 0;
	return PREVENT_WORD(AGENTD_OP_PTRACE, "ptrace:exe");
}

SEC("?lsm/userns_create")
int BPF_PROG(lsm_userns_create, const struct cred *cred)
{
	return PREVENT_WORD(AGENTD_OP_NAMESPACE, "unshare:user");
}

SEC("?lsm/bpf")
int BPF_PROG(lsm_bpf, int cmd)
{
	if (takes_what_is_there(cmd) && current_tag())
		return guard_refuses(AGENTD_OP_BPF);
	return PREVENT_WORD(AGENTD_OP_BPF, "bpf");
}

SEC("?lsm/perf_event_open")
int BPF_PROG(lsm_perf_event_open)
{
	return PREVENT_WORD(AGENTD_OP_PERF, "perf_event_open");
}

static __always_inline int judge_loading(u32 id)
{
	if (id == READING_MODULE)
		return PREVENT_WORD(AGENTD_OP_MODULE, "module");
	if (id == READING_KEXEC_IMAGE || id == READING_KEXEC_INITRAMFS)
		return PREVENT_WORD(AGENTD_OP_KEXEC, "kexec_load");
	return 0;
}

SEC("?lsm/kernel_read_file")
int BPF_PROG(lsm_kernel_read_file, struct file *file, u32 id)
{
	return judge_loading(id);
}

SEC("?lsm/kernel_load_data")
int BPF_PROG(lsm_kernel_load_data, u32 id)
{
	return judge_loading(id);
}

/*
 * The kernel's own helper loads it, outside the workload. Who asked for it is told that there is none; the call can't be issued
 * again.
 */
SEC("?lsm/kernel_module_request")
int BPF_PROG(lsm_kernel_module_request, char *name)
{
	struct agentd_tag *tag = current_tag();
	int error = -EPERM;
	struct scratch *s;
	u32 slot;

	if (!tag)
		return 0;
	s = begin(&slot);
	if (s) {
		error = shared_answer(slot, JUDGE_WORD_NOW, AGENTD_OP_MODULE, word_set(s, "module:request"));
		scratch_give(slot);
	}
	return error;
}

#define KEY_ALLOC_QUOTA_OVERRUN 1 /* linux/key.h */

/*
 * Keys by themselves are nobody's business (README.md), but with the third argument (callout_info) one that isn't found is asked
 * for: by a program that runs as root, told by the caller's words what to do. The keyrings that such a call makes besides
 * are made with the flag.
 */
SEC("?lsm/key_alloc")
int BPF_PROG(lsm_key_alloc, void *key, const struct cred *cred, unsigned long flags)
{
	if (flags & KEY_ALLOC_QUOTA_OVERRUN || !syscall_is(249, 287) || !syscall_third())
		return 0;
	return PREVENT_WORD(AGENTD_OP_MODULE, "module:key");
}

#define CLONE_INTO_CGROUP (1ull << 33)
#define CLONE_JUDGED (CLONE_INTO_CGROUP | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_OTHERS)

/*
 * clone() with namespaces other than a user's, or into another cgroup, which writes to no file of it. The child is not there
 * yet.
 */
static __always_inline int judge_clone(u64 flags)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s;
	u32 slot, len;
	int error = 0;

	if (!tag)
		return 0;
	s = begin(&slot);
	if (!s)
		return -EPERM;
	len = namespace_word(s, flags & CLONE_JUDGED);
	if (!len)
		len = word_set(s, "clone:cgroup");
	if (len)
		error = shared_answer(slot, JUDGE_WORD, AGENTD_OP_NAMESPACE, len);
	scratch_give(slot);
	return error;
}

SEC("?lsm/task_alloc")
int BPF_PROG(lsm_task_alloc, struct task_struct *task, u64 flags)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	struct agentd_control *c = control_get();
	struct agentd_tag *tag, fresh = {};

	if (!c || c->epoch != constants.epoch || (nobodys(parent) && !c->tagging))
		return 0;
	tag = bpf_task_storage_get(&tags, parent, 0, 0);
	if (tag) {
		if (is_doomed(c, tag)) {
			tag->flags |= AGENTD_TAG_KILL_AT_EXIT;
			kill_marked(tag);
			return -EPERM;
		}
		fresh.agent = tag->agent;
		fresh.workload = tag->workload;
	} else if (!c->tagging || !forks_while_tagging(parent, &fresh)) {
		return 0;
	}
	if (mark(task, &fresh)) {
		stat_add(AGENTD_STAT_FORKS, 1); /* after it has its mark: see TaskMarks.none_left() */
		return flags & CLONE_JUDGED ? judge_clone(flags) : 0;
	}
	stat_add(AGENTD_STAT_UNTRACKED, 1);
	return -ENOMEM;
}
