/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * One LSM hook, as the lsm_*.bpf.c files see it: gather the objects, judge them, answer 0 or an errno before anything has
 * happened. The same programs load as `lsm` and, where BPF is not among the kernel's security modules, as `fmod_ret` on
 * security_*(): the loader chooses (agentd/kernel/hooks.py), and control.point says which it is.
 *
 * Guarantee: prevented. Fails: to -EPERM. A hold sends SIGSTOP and returns -ERESTARTNOINTR: the task stops on its way out of
 * the call, and the same call is issued again when it goes on.
 */
#ifndef AGENTD_PREVENT_BPF_H
#define AGENTD_PREVENT_BPF_H

#include "hold.bpf.h"
#include "recall.bpf.h"

static __always_inline void target_set(struct scratch *s, u32 i, u32 op, const struct vfsmount *mnt,
				       const struct dentry *dentry)
{
	s->target[i].op = op;
	s->target[i].mnt = (u64)mnt;
	s->target[i].dentry = (u64)dentry;
	s->target[i].node = 0;
}

static __always_inline u32 hook_point(void)
{
	struct agentd_control *c = control_get();

	return c ? c->point : AGENTD_POINT_LSM;
}

static __always_inline struct emission *emission_here(struct scratch *s, u32 op, u32 len)
{
	struct emission *m = emission_begin(s, op, hook_point(), AGENTD_PREVENTED);

	m->object_off = s->path_off;
	m->object_len = len;
	return m;
}

/* Under what a walk is going to be made. */
static __always_inline void walked_begin(struct walked *k, u64 mnt)
{
	k->generation = 0;
	k->len = NO_PREFIX;
	k->stamp = 0;
	k->mnt = mnt;
	if (constants.memory) {
		k->renames = sequence(constants.rename_lock);
		k->mounts = sequence(constants.mount_lock);
		k->epoch = memory_time();
	}
}

/* Resolves target `i` into scratch->path and judges it, into scratch->v[i]. Returns its length, 0: unresolved. */
__noinline int target_look(u32 slot, u32 agent, u32 i)
{
	struct scratch *s = scratch_get(slot);
	struct target *t;
	struct verdict *v;
	u32 len;

	if (!s)
		return 0;
	t = &s->target[i & 1];
	v = &s->v[i & 1];
	s->look = i & 1;
	walked_begin(&s->walked[i & 1], t->mnt);
	len = path_resolve(slot, t->mnt, t->dentry, AGENTD_PATH_MAX);
	s->split = s->up.leaf;
	if (t->node && !in_dev(s)) /* its name says nothing about what it opens */
		len = 0;
	if (len) {
		path_verdict(v, slot, agent, t->op);
		s->walked[i & 1].generation = v->generation; /* also of the root of a mount, which is in no folder */
	} else {
		verdict_unresolved(v, agent, t->op);
	}
	t->hash[0] = s->hash[0];
	t->hash[1] = s->hash[1];
	s->split = 0;
	return len;
}

#include "check.bpf.h" /* it uses target_look() */

/* The same, and keeps its folder. */
static __always_inline u32 target_look_keep(u32 slot, u32 agent, u32 i)
{
	u32 len = target_look(slot, agent, i);

	if (constants.memory && len)
		folder_remember(slot, agent, i);
	return len;
}

/*
 * Judges `count` targets (1 or 2) as one operation: the worst verdict stands, and where both want an answer it is asked for
 * the first. 0, or the errno.
 */
static __always_inline int judge_targets(struct agentd_tag *tag, u32 slot, u32 count)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);
	u32 len, at = 0;
	int error;

	if (!s)
		return -EPERM;
	s->targets = count;
	s->target_hit[0] = s->target_hit[1] = 0;
	len = target_look_keep(slot, tag->agent, 0);
	if (count > 1) {
		u32 second = target_look_keep(slot, tag->agent, 1);

		if (worse(&s->v[1], &s->v[0]) || s->v[0].decision == AGENTD_ALLOW) {
			at = 1;
			len = second;
		} else {
			len = target_look(slot, tag->agent, 0); /* its path is in the buffer again */
		}
	}
	verdict_time(started);
	error = prevent(slot, tag, &s->v[at & 1], emission_here(s, s->target[at & 1].op, len));
	s->target_hit[at & 1] = s->hit;
	if (error || count < 2 || s->v[0].decision != AGENTD_ALLOW || s->v[1].decision != AGENTD_ALLOW)
		return error;
	len = target_look(slot, tag->agent, 0); /* both are allowed, and each is counted */
	error = prevent(slot, tag, &s->v[0], emission_here(s, s->target[0].op, len));
	s->target_hit[0] = s->hit;
	return error;
}

static __always_inline u32 targets_ops(const struct scratch *s, u32 count)
{
	return count > 1 ? TWO_NAMES(s->target[0].op, s->target[1].op) : ONE_NAME(s->target[0].op);
}

/* Has what it is done to an entry of its own? */
static __always_inline bool opens(u32 op)
{
	return op == AGENTD_OP_READ || op == AGENTD_OP_WRITE || op == AGENTD_OP_EXECMEM;
}

/* Is it judged by what is remembered of the folders? As judge_by_folders(). */
static __always_inline int judge_dentry_names(struct agentd_tag *tag, u32 slot, u32 count, const struct vfsmount *mnt,
					      const struct dentry *first, const struct vfsmount *mnt2,
					      const struct dentry *second)
{
	enum folder_state state = folder_known(slot, tag, 0, mnt, first), other = FOLDER_KNOWN;
	struct scratch *s = scratch_get(slot);
	u64 numbers;
	int error;

	if (!s)
		return -EPERM;
	if (count > 1 && state != FOLDER_UNKNOWN) {
		s->seen.look.stamp = mnt == mnt2 && first->d_parent == second->d_parent ? s->walked[0].stamp : 0;
		s->seen.look.number = s->walked[0].way;
		s->seen.generation = s->walked[0].generation;
		other = folder_known(slot, tag, 1, mnt2, second);
	}
	if (state == FOLDER_UNKNOWN || other == FOLDER_UNKNOWN)
		return NAMES_UNKNOWN;
	if (constants.check || ((state == FOLDER_RENEWED || other == FOLDER_RENEWED) && mnt == mnt2)) {
		s->seen.ops = targets_ops(s, count);
		numbers = names_recalled(tag, &s->seen, mnt, first, second);
		if (numbers) {
			s->target_hit[0] = s->target_hit[1] = 0; /* nothing new to remember */
			if (opens(s->target[0].op)) { /* but the file's own entry, under this count of renames */
				s->target_hit[0] = numbers & 0xffff;
				s->target_hit[1] = numbers >> 16 & 0xffff;
			}
			if (constants.check)
				check_leaves(slot, tag->agent, numbers);
			return 0;
		}
	}
	error = judge_by_folders(slot, tag, count);
	if (error == NAMES_UNKNOWN)
		return NAMES_UNKNOWN;
	if (error)
		return -EPERM;
	if (constants.check)
		check_names(slot, tag->agent, count);
	return 0;
}

/*
 * Judges the targets, from memory where that is possible. The dentries are those of the targets, as the hook has them: what
 * is remembered hangs on the inodes of their folders.
 */
static __always_inline int judge_dentries(struct agentd_tag *tag, u32 slot, u32 count, const struct vfsmount *mnt,
					  const struct dentry *first, const struct vfsmount *mnt2,
					  const struct dentry *second)
{
	struct scratch *s = scratch_get(slot);
	int error = NAMES_UNKNOWN;

	if (!s)
		return -EPERM;
	if (!constants.memory)
		return judge_targets(tag, slot, count);
	if (constants.check)
		check_begin(s, tag->agent);
	if (!s->target[0].node)
		error = judge_dentry_names(tag, slot, count, mnt, first, mnt2, second);
	if (error == NAMES_UNKNOWN) {
		error = judge_targets(tag, slot, count);
		if (error || s->v[0].decision != AGENTD_ALLOW || (count > 1 && s->v[1].decision != AGENTD_ALLOW) ||
		    s->target[0].node) {
			s->walked[0].generation = s->walked[1].generation = 0;
			return error;
		}
	}
	if (!error)
		leaves_remember(s, count, first, second);
	return error;
}

static __always_inline int judge_unresolved(struct agentd_tag *tag, u32 slot, u32 op)
{
	struct scratch *s = scratch_get(slot);

	if (!s)
		return -EPERM;
	verdict_unresolved(&s->v[0], tag->agent, op);
	return prevent(slot, tag, &s->v[0], emission_here(s, op, 0));
}

/* Judges the word in scratch->path. */
static __always_inline int judge_word(struct agentd_tag *tag, u32 slot, u32 op, u32 len)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);

	if (!s)
		return -EPERM;
	path_verdict(&s->v[0], slot, tag->agent, op);
	verdict_time(started);
	return prevent(slot, tag, &s->v[0], emission_here(s, op, len));
}

/* The same, where the call can't be issued again once the hook has answered: what needs an approval is denied. */
static __always_inline int judge_word_now(struct agentd_tag *tag, u32 slot, u32 op, u32 len)
{
	u64 started = bpf_ktime_get_ns();
	struct scratch *s = scratch_get(slot);

	if (!s)
		return -EPERM;
	path_verdict(&s->v[0], slot, tag->agent, op);
	verdict_time(started);
	if (s->v[0].decision != AGENTD_ALLOW) {
		s->v[0].decision = AGENTD_DENY;
		if (s->v[0].action == AGENTD_ACTION_PAUSE)
			s->v[0].action = AGENTD_ACTION_DENY;
	}
	return prevent(slot, tag, &s->v[0], emission_here(s, op, len));
}

/*
 * A call of the 32-bit table or of x32 is an operation of its own, `compat`: judged at every hook that it reaches, before
 * what the hook judges. 0, or -EPERM.
 */
static __always_inline int judge_compat(u32 slot)
{
	struct agentd_tag *tag = current_tag();
	struct scratch *s = scratch_get(slot);
	u32 len;

	if (!tag || !s)
		return -EPERM;
	len = syscall_compat() ? word_set(s, "i386") : word_set(s, "x32");
	return judge_word_now(tag, slot, AGENTD_OP_COMPAT, len);
}

/* The work buffer of a hook: NO_SLOT and NULL mean deny. */
static __always_inline struct scratch *begin(u32 *slot)
{
	*slot = scratch_take();
	if (*slot == NO_SLOT)
		return NULL;
	if (syscall_foreign() && judge_compat(*slot)) {
		scratch_give(*slot);
		return NULL;
	}
	return scratch_get(*slot);
}

/* The whole of a hook whose object is a word. */
#define PREVENT_WORD(op, word)                                                      \
	({                                                                          \
		struct agentd_tag *___tag = current_tag();                          \
		int ___error = 0;                                                   \
		if (___tag) {                                                       \
			u32 ___slot;                                                \
			struct scratch *___s = begin(&___slot);                     \
			___error = -EPERM;                                          \
			if (___s) {                                                 \
				u32 ___len = word_set(___s, word);                  \
				___error = judge_word(___tag, ___slot, op, ___len); \
				scratch_give(___slot);                              \
			}                                                           \
		}                                                                   \
		___error;                                                           \
	})

#endif
