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

#include "shared.bpf.h"
#include "targets.bpf.h"

static __always_inline void target_set(struct scratch *s, u32 i, u32 op, const struct vfsmount *mnt,
				       const struct dentry *dentry)
{
	s->target[i].op = op;
	s->target[i].mnt = (u64)mnt;
	s->target[i].dentry = (u64)dentry;
	s->target[i].node = 0;
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

/*
 * Is it judged by what is remembered of the folders? As judge_by_folders(). here: in shared.bpf.c, and not in a hook.
 */
static __always_inline int judge_dentry_names(struct agentd_tag *tag, u32 slot, u32 count, const struct vfsmount *mnt,
					      const struct dentry *first, const struct vfsmount *mnt2,
					      const struct dentry *second, bool here)
{
	enum folder_state state, other = FOLDER_KNOWN;
	struct scratch *s = scratch_get(slot);
	u64 numbers;
	int error;

	state = here ? folder_known_here(slot, tag, 0, mnt, first) : folder_known(slot, tag, 0, mnt, first);
	if (!s)
		return -EPERM;
	if (count > 1 && state != FOLDER_UNKNOWN) {
		s->seen.look.stamp = mnt == mnt2 && same_folder(first, second) ? s->walked[0].stamp : 0;
		s->seen.look.number = s->walked[0].way;
		s->seen.generation = s->walked[0].generation;
		other = here ? folder_known_here(slot, tag, 1, mnt2, second) : folder_known(slot, tag, 1, mnt2, second);
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
				here ? check_leaves(slot, tag->agent, numbers) : shared(slot, CHECK_LEAVES, 0, numbers);
			return 0;
		}
	}
	error = here ? judge_by_folders(slot, tag, count) : shared(slot, JUDGE_BY_FOLDERS, 0, count);
	if (error == NAMES_UNKNOWN)
		return NAMES_UNKNOWN;
	if (error)
		return -EPERM;
	if (constants.check)
		here ? check_names(slot, tag->agent, count) : shared(slot, CHECK_NAMES, 0, count);
	return 0;
}

/*
 * Judges the targets, from memory where that is possible. The dentries are those of the targets, as the hook has them: what
 * is remembered hangs on the inodes of their folders.
 */
static __always_inline int judge_dentries_as(struct agentd_tag *tag, u32 slot, u32 count, const struct vfsmount *mnt,
					     const struct dentry *first, const struct vfsmount *mnt2,
					     const struct dentry *second, bool here)
{
	struct scratch *s = scratch_get(slot);
	int error = NAMES_UNKNOWN;

	if (!s)
		return -EPERM;
	if (constants.check)
		check_begin(s, tag->agent);
	if (!s->target[0].node)
		error = judge_dentry_names(tag, slot, count, mnt, first, mnt2, second, here);
	if (error == NAMES_UNKNOWN) {
		error = here ? judge_targets(tag, slot, count) : shared_answer(slot, JUDGE_TARGETS, 0, count);
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

static __always_inline int judge_dentries(struct agentd_tag *tag, u32 slot, u32 count, const struct vfsmount *mnt,
					  const struct dentry *first, const struct vfsmount *mnt2,
					  const struct dentry *second)
{
	if (!constants.memory || can_cast())
		return shared_answer(slot, JUDGE_DENTRIES, 0, count);
	return judge_dentries_as(tag, slot, count, mnt, first, mnt2, second, false);
}

/* The work buffer of a hook: NO_SLOT and NULL mean deny. */
static __always_inline struct scratch *begin(u32 *slot)
{
	*slot = scratch_take();
	if (*slot == NO_SLOT)
		return NULL;
	if (syscall_foreign() && shared(*slot, JUDGE_COMPAT, 0, 0)) {
		scratch_give(*slot);
		return NULL;
	}
	return scratch_get(*slot);
}

/* The whole of a hook whose object is a word. */
#define PREVENT_WORD(op, word)                                                             \
	({                                                                                 \
		struct agentd_tag *___tag = current_tag();                                 \
		int ___error = 0;                                                          \
		if (___tag) {                                                              \
			u32 ___slot;                                                       \
			struct scratch *___s = begin(&___slot);                            \
			___error = -EPERM;                                                 \
			if (___s) {                                                        \
				u32 ___len = word_set(___s, word);                         \
				___error = shared_answer(___slot, JUDGE_WORD, op, ___len); \
				scratch_give(___slot);                                     \
			}                                                                  \
		}                                                                          \
		___error;                                                                  \
	})

#endif
