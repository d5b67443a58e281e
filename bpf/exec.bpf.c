// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * exec, where there is no LSM hook: judged when the new program is in place and has not run an instruction.
 *
 * tp_btf/sched_process_exec, in the context of the task that called execve (fs/exec.c, exec_binprm). The path is that of
 * the file really loaded (bprm->file: for a script its last interpreter), the arguments are read from the new address
 * space. A script is judged twice: by its interpreter and by the script's own name, and the worse verdict stands.
 *
 * Guarantee: contained. The old program is gone, the new one dies or stops before its first instruction.
 * A program that belongs to no workload may begin one: match.bpf.c.
 *
 * Fails: to deny (kill), for a path or a script that can't be resolved, and for an argv that can't be read completely
 * where an argument could decide.
 * Trusted: bprm, the mm just built. Not trusted: comm, argv[0], AT_EXECFN.
 */
#include "lib/act.bpf.h"

static __always_inline bool resolve_script(u32 slot, struct linux_binprm *bprm)
{
	struct scratch *s = scratch_get(slot);
	struct task_struct *task = bpf_get_current_task_btf();
	long n;

	if (!s)
		return false;
	s->name_cur = 0;
	n = bpf_probe_read_kernel_str(s->name[0], AGENTD_PATH_MAX, KREAD(bprm, filename));
	if (n <= 1 || n >= AGENTD_PATH_MAX)
		return false;
	s->name_len = n - 1;
	return name_resolve(slot, (u64)KREAD(task, fs, pwd.mnt), (u64)KREAD(task, fs, pwd.dentry), 1) != 0;
}

/* `resolved`: a path stands in the buffer. Arguments that were not read make it unresolved where they could decide. */
static __always_inline void loaded_verdict(struct verdict *v, u32 slot, u32 agent, bool resolved)
{
	if (resolved)
		path_verdict(v, slot, agent, AGENTD_OP_EXEC);
	if (!resolved || v->outcome == 0xffffffff)
		verdict_unresolved(v, agent, AGENTD_OP_EXEC);
}

static __noinline void judge_exec(struct agentd_tag *tag, struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct verdict *v, *script;
	struct emission *m;
	struct scratch *s;
	u64 begin = bpf_ktime_get_ns();
	u32 slot = scratch_take();
	bool is_script;

	s = scratch_get(slot);
	if (slot == NO_SLOT || !s) {
		kill_current(tag, NULL);
		return;
	}
	m = emission_begin(s, AGENTD_OP_EXEC, AGENTD_POINT_EXEC, AGENTD_CONTAINED);
	v = &s->v[0];
	script = &s->v[1];
	is_script = KREAD(bprm, interp) != KREAD(bprm, filename);
	program_here(s, KREAD(task, mm, arg_start), KREAD(task, mm, arg_end));
	args_scan(slot, tag->agent);
	loaded_verdict(v, slot, tag->agent, path_of_file(slot, KREAD(bprm, file)));
	if (is_script && v->decision != AGENTD_DENY) {
		loaded_verdict(script, slot, tag->agent, resolve_script(slot, bprm));
		if (worse(script, v)) {
			*v = *script;
			m->flags |= AGENTD_EVENT_FLAG_SCRIPT;
		} else if (path_of_file(slot, KREAD(bprm, file))) {
			/* the buffer and its hash are the interpreter's again */
			path_class(slot, tag->agent, AGENTD_OP_EXEC);
		}
	}
	m->object_off = s->path_off;
	m->object_len = v->unresolved ? 0 : AGENTD_PATH_MAX - s->path_off;
	verdict_time(begin);
	act(slot, tag, v, m, true);
	scratch_give(slot);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(exec_loaded, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct agentd_tag *tag = current_tag();

	if (!tag) {
		match_begin(bprm);
		return 0;
	}
	if (tag->flags & AGENTD_TAG_KILL_AT_EXIT) {
		kill_marked(tag);
		return 0;
	}
	if (tag->flags & AGENTD_TAG_ROOT_EXEC) { /* the operator's own command line starts the workload */
		tag->flags &= ~AGENTD_TAG_ROOT_EXEC;
		tag->granted[0] = 0;
		return 0;
	}
	tag->granted[0] = tag->granted[1] = 0;
	tag->flags &= ~AGENTD_TAG_AGAIN;
	if (covered(AGENTD_OP_EXEC)) /* by lsm_exec.bpf.c, before the effect */
		return 0;
	judge_exec(tag, bprm);
	return 0;
}
