// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What the LSM hooks share (lib/shared.bpf.h), as one program that takes the place of the function shared() of each of them.
 * To the verifier it is of the same kind as they are, and has a stack of its own. What it is handed are numbers: the work
 * buffer has the rest, and of pointers of the kernel only the addresses.
 */
#include "lib/mounts.bpf.h"
#include "lib/refuse.bpf.h"
#include "lib/sockets.bpf.h"

/* Which of the first `count` places gives the worst verdict on the dentry that was sought; the first one of several. */
__noinline u32 worst_place(u32 slot, u32 agent, u32 op, u32 count)
{
	struct scratch *s = scratch_get(slot);
	u32 worst = 0;

	if (!s)
		return 0;
	for (u32 i = 0; i < PLACES; i++) {
		if (i >= count)
			break;
		target_set(s, 1, op, (const struct vfsmount *)s->mounts.place[i], s->mounts.sought);
		target_look(slot, agent, 1);
		if (!i || worse(&s->v[1], &s->v[0])) {
			s->v[0] = s->v[1];
			worst = i;
		}
	}
	return worst;
}

/* Judges the dentry that was sought where one mount, or the worst of `count`, shows it. 0, or an errno. */
static __noinline int judge_places(struct agentd_tag *tag, u32 slot, u32 op, u32 count)
{
	struct scratch *s = scratch_get(slot);
	u32 at;

	if (!s)
		return -EPERM;
	at = count > 1 ? worst_place(slot, tag->agent, op, count) : 0;
	target_set(s, 0, op, (const struct vfsmount *)s->mounts.place[at & (PLACES - 1)], s->mounts.sought);
	if (count == 1 && can_cast()) { /* memory is asked by pointers that can be read through */
		const struct vfsmount *mnt = CAST(struct vfsmount, s->mounts.place[0]);
		const struct dentry *dentry = CAST(struct dentry, s->mounts.sought);
		struct recall r = { .ops = ONE_NAME(op) };

		if (constants.memory && !constants.check) {
			if (names_recalled(tag, &r, mnt, dentry, dentry))
				return 0;
			s->seen = r;
		}
		return judge_dentries_as(tag, slot, 1, mnt, dentry, mnt, dentry, true);
	}
	return judge_targets(tag, slot, 1);
}

/* Judges a host key in scratch->path. */
static __always_inline int judge_endpoint(struct agentd_tag *tag, u32 slot, u32 op, u32 len)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	struct emission *m;
	int error;

	if (!s)
		return -EPERM;
	m = emission_begin(s, op, hook_point(), AGENTD_PREVENTED);
	m->object_len = host_verdict(&s->v[0], slot, tag->agent, op, len);
	verdict_time(started);
	error = prevent(slot, tag, &s->v[0], m);
	if (error == -ERESTARTNOINTR && s->netns)
		name_hold(slot, s->v[0].timeout);
	return error;
}

/* A program that is about to run: scratch->target[0]. What is allowed whatever its arguments are may be kept under `walked`. */
static __always_inline int judge_target_program(struct agentd_tag *tag, u32 slot)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	bool scanned = false;
	struct emission *m;
	struct target *t;
	int error;
	u32 len;

	if (!s)
		return -EPERM;
	t = &s->target[0];
	t->hash[0] = t->hash[1] = 0; /* the path is in the hash of the object */
	s->targets = 1;
	walked_begin(&s->walked[0], t->mnt);
	len = path_resolve(slot, t->mnt, t->dentry, AGENTD_PATH_MAX);
	if (!len)
		verdict_unresolved(&s->v[0], tag->agent, AGENTD_OP_EXEC);
	else
		scanned = exec_verdict(&s->v[0], slot, tag->agent);
	if (scanned && !path_resolve(slot, t->mnt, t->dentry, AGENTD_PATH_MAX))
		len = 0; /* moved in between: what is told has no name then */
	verdict_time(started);
	m = emission_here(s, AGENTD_OP_EXEC, len);
	m->argv_kept = len ? s->args.kept : 0;
	error = prevent(slot, tag, &s->v[0], m);
	if (!error && len && !scanned && s->v[0].decision == AGENTD_ALLOW)
		s->walked[0].generation = s->v[0].generation;
	return error;
}

/* The guard's no to an operation on the object `agentd`, whatever the policy says and in whatever mode. */
static __always_inline int guard_says_no(struct agentd_tag *tag, u32 slot, u32 op)
{
	struct scratch *s = scratch_get(slot);
	struct emission *m;

	if (!s)
		return -EPERM;
	verdict_guard(&s->v[0], tag->agent);
	s->hash[0] = s->hash[1] = 0;
	m = emission_here(s, op, word_set(s, "agentd"));
	m->object_off = s->path_off;
	m->details = true;
	m->type = AGENTD_EVENT_VIOLATION;
	m->action = AGENTD_ACTION_DENY;
	report_denied(slot, tag, &s->v[0], m);
	return -EPERM;
}

/* The targets, by the pointers that their addresses are. */
static __always_inline int judge_from_memory(struct agentd_tag *tag, u32 slot, u32 count)
{
	struct scratch *s = scratch_get(slot);

	if (!s)
		return -EPERM;
	if (!constants.memory)
		return judge_targets(tag, slot, count);
	if (!can_cast())
		return -EPERM;
	return judge_dentries_as(tag, slot, count, CAST(struct vfsmount, s->target[0].mnt),
				 CAST(struct dentry, s->target[0].dentry), CAST(struct vfsmount, s->target[1].mnt),
				 CAST(struct dentry, s->target[1].dentry), true);
}

/* A dentry, in all the places where the caller can see it. */
static __always_inline int judge_sought(struct agentd_tag *tag, u32 slot, u32 op)
{
	u32 count = mounts_of(slot);
	struct scratch *s = scratch_get(slot);

	if (!s)
		return -EPERM;
	if (count == NOT_THE_CALLERS)
		return 0;
	if (count)
		return judge_places(tag, slot, op, count);
	verdict_unresolved(&s->v[0], tag->agent, op);
	return prevent(slot, tag, &s->v[0], emission_here(s, op, 0));
}

/* Judges the word of `len` bytes in scratch->path; 0: it is unresolved. now: what needs an approval is denied. */
static __always_inline int judge_word(struct agentd_tag *tag, u32 slot, u32 op, u32 len, bool now)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	struct verdict *v;

	if (!s)
		return -EPERM;
	v = &s->v[0];
	if (len)
		path_verdict(v, slot, tag->agent, op);
	else
		verdict_unresolved(v, tag->agent, op);
	verdict_time(started);
	if (now && v->decision != AGENTD_ALLOW) {
		v->decision = AGENTD_DENY;
		if (v->action == AGENTD_ACTION_PAUSE)
			v->action = AGENTD_ACTION_DENY;
	}
	return prevent(slot, tag, v, emission_here(s, op, len));
}

/* The mark that the hook has found. In charge or not: the hook was. */
static __always_inline struct agentd_tag *hooks_tag(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_tag *tag = bpf_task_storage_get(&tags, task, 0, 0);

	if (!tag && task->flags & PF_IO_WORKER)
		tag = bpf_task_storage_get(&tags, task->group_leader, 0, 0);
	return tag;
}

SEC("?freplace/shared")
int shared_by_hooks(u32 slot, u32 what, u32 op, u32 number)
{
	struct agentd_tag *tag = hooks_tag();
	struct scratch *s = scratch_get(slot);
	bool now = false;

	if (!tag || !s)
		return -EPERM;
	switch (what) {
	case JUDGE_TARGETS:
		return judge_targets(tag, slot, number);
	case JUDGE_DENTRIES:
		return judge_from_memory(tag, slot, number);
	case JUDGE_BY_FOLDERS:
		return judge_by_folders(slot, tag, number);
	case JUDGE_SOUGHT:
		return judge_sought(tag, slot, op);
	case JUDGE_ENDPOINT:
		return judge_endpoint(tag, slot, op, number);
	case JUDGE_PROGRAM:
		return judge_target_program(tag, slot);
	case JUDGE_GUARDED:
		return guard_says_no(tag, slot, op);
	case FOLDER_RENEW:
		return folder_renewed(slot, number);
	case CHECK_FILE:
		return check_file(slot, tag->agent, number);
	case CHECK_LEAVES:
		return check_leaves(slot, tag->agent, number);
	case CHECK_NAMES:
		return check_names(slot, tag->agent, number);
	case JUDGE_COMPAT:
		now = true;
		op = AGENTD_OP_COMPAT;
		number = syscall_compat() ? word_set(s, "i386") : word_set(s, "x32");
		break;
	case JUDGE_PEER:
		number = unix_name(slot, s, (struct sock *)s->target[0].dentry);
		break;
	case JUDGE_UNRESOLVED:
		number = 0;
		break;
	case JUDGE_WORD_NOW:
		now = true;
		break;
	case JUDGE_WORD:
		break;
	default:
		return -EPERM;
	}
	return judge_word(tag, slot, op, number, now);
}
