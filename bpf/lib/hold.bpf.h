/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Acting by return value, for the points that run before the effect: -EPERM for what is denied, -ERESTARTNOINTR for what
 * is held. The held task stops on its way out with nothing done; on SIGCONT the kernel issues the same call again and
 * the hook finds a grant, a refusal, or nothing (and stops it again).
 *
 * A grant is found by the action: agent, policy generation, operation, object, process and the file it runs. It is
 * consumed here, atomically.
 */
#ifndef AGENTD_HOLD_BPF_H
#define AGENTD_HOLD_BPF_H

#include "act.bpf.h"

#define EPERM 1
#define ERESTARTNOINTR 513

static __always_inline u64 mix(u64 h, u64 value)
{
	h = (h ^ value) * 0x9E3779B97F4A7C15ull;
	return h ^ (h >> 32);
}

/* i_ctime_nsec has a flag in its highest bit, set by whoever stat()s the file (I_CTIME_QUERIED, Linux 6.13). */
#define CTIME_NSEC 0x7fffffff

/* When the inode was last changed, in ns: its contents, its mode, its names. */
static __noinline u64 changed(const struct inode *inode)
{
	if (bpf_core_field_exists(inode->i_ctime_sec))
		return KREAD(inode, i_ctime_sec) * 1000000000ull + (KREAD(inode, i_ctime_nsec) & CTIME_NSEC);
	if (bpf_core_field_exists(struct inode___v66, __i_ctime))
		return KREAD((const struct inode___v66 *)inode, __i_ctime.tv_sec) * 1000000000ull +
		       KREAD((const struct inode___v66 *)inode, __i_ctime.tv_nsec);
	return KREAD((const struct inode___v65 *)inode, i_ctime.tv_sec) * 1000000000ull +
	       KREAD((const struct inode___v65 *)inode, i_ctime.tv_nsec);
}

static __always_inline u64 mix_inode(u64 h, const struct inode *inode, bool contents)
{
	h = mix(h, KREAD(inode, i_sb, s_dev));
	h = mix(h, KREAD(inode, i_ino));
	return contents ? mix(h, changed(inode)) : h;
}

/*
 * The hash of an action: agent, policy generation, operation and outcome, the object by name and, where an LSM hook has it,
 * the very file (for an exec with its time of change, and its arguments: another program in its place, or another command
 * line, is another action), the process and the file it runs. Into m->key, which is what a struct agentd_grant_key is.
 */
static __noinline void action_key(struct emission *m, const struct scratch *s, const struct agentd_tag *tag,
				  const struct verdict *v)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct inode *exe = KREAD(task, mm, exe_file, f_inode);

	for (u32 lane = 0; lane < 2; lane++) {
		u64 h = s->hash[lane]; /* keyed: nobody outside can look for two actions with one hash */

		h = mix(h, ((u64)tag->agent << 32) | v->generation);
		h = mix(h, ((u64)m->op << 32) | v->outcome);
		h = mix(h, bpf_get_current_pid_tgid() >> 32);
		h = mix(h, KREAD(task, group_leader, start_boottime));
		h = mix_inode(h, exe, true);
		if (m->op == AGENTD_OP_EXEC)
			h = mix(h, s->args.hash[lane]);
		for (u32 i = 0; i < 2; i++) {
			const struct dentry *dentry = (const struct dentry *)s->target[i].dentry;

			if (i >= s->targets)
				continue;
			h = mix(h, s->target[i].hash[lane]);
			h = mix_inode(h, KREAD(dentry, d_inode), m->op == AGENTD_OP_EXEC);
		}
		m->key[lane] = h;
	}
}

/* Can the call in progress be stopped and issued again? Not in a kernel thread, not on behalf of an io_uring request. */
static __always_inline bool restartable(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return !(task->flags & PF_KTHREAD_OR_WORKER) && !KREAD(task, io_uring);
}

enum grant_state {
	GRANT_NONE,
	GRANT_ALLOW,
	GRANT_DENY,
};

static __always_inline enum grant_state grant_use(const u64 *action)
{
	u64 key[2] = { action[0], action[1] }; /* Linux 6.1 takes a key from a map or from here */
	struct agentd_grant *grant = bpf_map_lookup_elem(&grants, key);
	enum grant_state state;
	s32 uses;

	if (!grant || grant->expires < bpf_ktime_get_boot_ns())
		return GRANT_NONE;
	state = grant->allow ? GRANT_ALLOW : GRANT_DENY;
	uses = __sync_fetch_and_add(&grant->uses, -1);
	if (uses <= 1)
		bpf_map_delete_elem(&grants, key);
	return uses > 0 ? state : GRANT_NONE;
}

/*
 * Makes the call in progress stop on its way out. `signals`: this kind of program can send them; where it can't, trace.bpf.c
 * does at the exit of the call. False: it can't be stopped.
 */
static __always_inline bool stop_on_exit(struct agentd_tag *tag, bool signals)
{
	if (signals)
		return !bpf_send_signal(SIGSTOP);
	tag->flags |= AGENTD_TAG_STOP;
	return true;
}

/* A call was held: an execve will begin with its script again, which may have been approved just now (lsm_exec.bpf.c). */
static __always_inline void comes_again(struct agentd_tag *tag, u32 op)
{
	if (op == AGENTD_OP_EXEC)
		tag->flags |= AGENTD_TAG_AGAIN;
}

/* The end of the process whose call is refused. */
static __always_inline void kill_on_exit(struct agentd_tag *tag, struct emission *m, bool signals)
{
	if (signals) {
		kill_current(tag, m);
		return;
	}
	m->action = AGENTD_ACTION_KILL;
	tag->flags |= AGENTD_TAG_KILL_AT_EXIT;
}

/* 0: go on; otherwise the negative errno that the hook returns. */
static __always_inline int answer(u32 slot, struct agentd_tag *tag, const struct verdict *v, struct emission *m,
				  bool signals)
{
	const struct agentd_agent *agent = agent_get(tag->agent);
	struct scratch *s = scratch_get(slot);
	bool monitor = agent && agent->flags & AGENTD_AGENT_MONITOR && v->rule != AGENTD_RULE_GUARD;

	if (!s)
		return -EPERM;
	if (tag->flags & (AGENTD_TAG_KILL_AT_EXIT | AGENTD_TAG_KILLED)) { /* its end is near */
		if (signals && tag->flags & AGENTD_TAG_KILL_AT_EXIT)
			kill_marked(tag);
		return -EPERM;
	}
	if (tag->flags & AGENTD_TAG_HELD) { /* what it was held for is behind it; below begins another hold, or none */
		if (!answered(tag->hold_id)) /* nobody said it may run: the exit of this call ends it (trace.bpf.c) */
			return -EPERM;
		hold_over(tag);
	}
	if (v->decision == AGENTD_ALLOW) {
		tag->hold_id = 0; /* of a hold that a new policy has ended */
		if (agent && !monitor && unrecorded(agent)) {
			m->details = true;
			m->type = AGENTD_EVENT_VIOLATION;
			m->action = AGENTD_ACTION_DENY;
			report_denied(slot, tag, v, m);
			return -EPERM;
		}
		if (report_allowed(slot, tag, v, m) || !agent || !(agent->flags & AGENTD_AGENT_STRICT) || monitor)
			return 0;
		return -EPERM; /* strict: what can't be recorded doesn't happen */
	}
	m->details = true;
	m->type = AGENTD_EVENT_VIOLATION;
	if (monitor) {
		m->flags |= AGENTD_EVENT_FLAG_MONITOR;
		m->action = AGENTD_ACTION_NONE;
		report_denied(slot, tag, v, m);
		return 0;
	}
	m->action = AGENTD_ACTION_DENY;
	if (v->decision == AGENTD_REQUIRE_APPROVAL || v->action == AGENTD_ACTION_PAUSE) {
		action_key(m, s, tag, v);
		if (m->op == AGENTD_OP_EXEC && tag->granted[0] == m->key[0] && tag->granted[1] == m->key[1])
			return 0; /* of this very execve, which came again because its interpreter was asked about */
		switch (grant_use(m->key)) {
		case GRANT_ALLOW:
			m->type = AGENTD_EVENT_GRANTED;
			m->action = AGENTD_ACTION_NONE;
			m->hold_id = tag->hold_id;
			tag->hold_id = 0;
			if (m->op == AGENTD_OP_EXEC) {
				tag->granted[0] = m->key[0];
				tag->granted[1] = m->key[1];
			}
			if (!emit(slot, tag, v, m))
				stat_add(AGENTD_STAT_LOST_EVENTS, 1);
			return 0;
		case GRANT_DENY:
			m->type = AGENTD_EVENT_REFUSED;
			m->hold_id = tag->hold_id;
			tag->hold_id = 0;
			if (!emit(slot, tag, v, m))
				stat_add(AGENTD_STAT_LOST_EVENTS, 1);
			return -EPERM;
		default:
			break;
		}
		if (!restartable())
			goto deny;
		if (tag->hold_id && tag->hold_key[0] == m->key[0] && tag->hold_key[1] == m->key[1] &&
		    !answered(tag->hold_id)) {
			/*
			 * Woken by somebody and not answered: the same hold goes on. (Answered, and another thread took the
			 * grant: asked anew.)
			 */
			if (!stop_on_exit(tag, signals))
				return -EPERM;
			comes_again(tag, m->op);
			return -ERESTARTNOINTR;
		}
		m->type = AGENTD_EVENT_HOLD;
		m->action = AGENTD_ACTION_PAUSE;
		m->hold_id = hold_new();
		if (m->hold_id && emit(slot, tag, v, m)) {
			tag->hold_op = m->op;
			tag->hold_id = m->hold_id;
			tag->hold_key[0] = m->key[0];
			tag->hold_key[1] = m->key[1];
			if (stop_on_exit(tag, signals)) {
				comes_again(tag, m->op);
				return -ERESTARTNOINTR;
			}
			tell(AGENTD_EVENT_GONE, 0, tag); /* nobody waits for the answer */
			tag->hold_id = 0;
			m->flags |= AGENTD_EVENT_FLAG_SIGNAL_FAILED;
			stat_add(AGENTD_STAT_SIGNAL_FAILED, 1);
		}
deny: /* nobody can be asked, or the call can't be repeated */
		m->type = AGENTD_EVENT_VIOLATION;
		m->action = AGENTD_ACTION_DENY;
	} else if (v->action == AGENTD_ACTION_KILL) {
		kill_on_exit(tag, m, signals);
	}
	report_denied(slot, tag, v, m);
	return -EPERM;
}

/* For cgroup programs, which can't send signals. */
static __noinline int refuse_or_hold(u32 slot, struct agentd_tag *tag, const struct verdict *v, struct emission *m)
{
	return answer(slot, tag, v, m, false);
}

/* For LSM hooks. */
__noinline int prevent(u32 slot, struct agentd_tag *tag, const struct verdict *v, struct emission *m)
{
	if (!tag || !v || !m)
		return -EPERM;
	return answer(slot, tag, v, m, true);
}

#endif
