/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The words that stand for new namespaces, whichever call and point it is. */
#ifndef AGENTD_NAMESPACES_BPF_H
#define AGENTD_NAMESPACES_BPF_H

#include "scratch.bpf.h"

/* linux/sched.h */
#define CLONE_NEWTIME 0x80
#define CLONE_NEWNS 0x20000
#define CLONE_NEWCGROUP 0x02000000
#define CLONE_NEWUTS 0x04000000
#define CLONE_NEWIPC 0x08000000
#define CLONE_NEWUSER 0x10000000
#define CLONE_NEWPID 0x20000000
#define CLONE_NEWNET 0x40000000
#define UNSHARE_EMPTY_MNTNS 0x100000 /* of unshare(), Linux 7.1: CLONE_NEWNS, and nothing in it */
#define CLONE_OTHERS (CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP | CLONE_NEWTIME)

/* The word for flags of clone() and unshare(), which is the gravest of them; 0: they ask for no namespace. */
static __always_inline u32 namespace_word(struct scratch *s, u64 flags)
{
	if (flags & CLONE_NEWUSER)
		return word_set(s, "unshare:user");
	if (flags & CLONE_NEWNS)
		return word_set(s, "unshare:mnt");
	if (flags & CLONE_NEWPID)
		return word_set(s, "unshare:pid");
	if (flags & CLONE_NEWNET)
		return word_set(s, "unshare:net");
	if (flags & CLONE_OTHERS)
		return word_set(s, "unshare:other");
	return 0;
}

/* The same, for unshare(). */
static __always_inline u32 unshare_word(struct scratch *s, u64 flags)
{
	return namespace_word(s, flags & UNSHARE_EMPTY_MNTNS ? flags | CLONE_NEWNS : flags);
}

#endif
