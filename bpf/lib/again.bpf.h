/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Is a folder still called what it was called? After a rename anywhere on the host that is asked of every folder that is
 * remembered (memory.bpf.h), so it is answered without a buffer: upwards from the folder, component by component, and byte by
 * byte against the path that is kept. Who calls it looks at the count of renames before and afterwards.
 *
 * Where the verifier takes no loads from addresses (before Linux 6.2), and deeper than AGAIN_STEPS: no, and the folder's path
 * is resolved anew (folder_renewed). Trusted: the kernel's dentries and mounts. The parents of a dentry that somebody holds
 * are held, too. What is read behind the end of a name, up to seven bytes, is in the same allocation, and is not compared.
 */
#ifndef AGENTD_AGAIN_BPF_H
#define AGENTD_AGAIN_BPF_H

#include "memory.bpf.h"

#define AGAIN_STEPS 32

struct again {
	const struct folder_way *kept;
	u64 mnt, dentry; /* addresses */
	u64 name; /* the address of the component's, */
	u64 differs; /* and from what is kept, in a bit that counts */
	u32 len, at; /* its length, and where it is kept: what stands before it was not met yet */
	bool same;
};

/* Compares eight bytes of the name, or those that are left. 1: they differ. */
static __always_inline long word_differs(u32 i, struct again *k)
{
	u32 done = i * 8, left = k->len - done;
	u64 word = WORD_AT(k->name + done) ^ *(const u64 *)&k->kept->path[(k->at + done) & (FOLDER_PATH - 1)];

	if (left < 8) /* little endian: the first bytes are the low ones */
		word <<= 64 - left * 8;
	k->differs = word;
	return word != 0;
}

/* The words behind the first. (A loop of the language: each turn would be verified anew.) */
static long again_word(u32 i, struct again *k)
{
	return word_differs(i + 1, k);
}

static long again_step(u32 i, struct again *k)
{
	const struct vfsmount *mnt = CAST(struct vfsmount, k->mnt);
	const struct dentry *dentry = CAST(struct dentry, k->dentry);
	u32 len, at = k->at;
	u64 parent;

	if (k->dentry == (u64)mnt->mnt_root) {
		const struct mount *m = CAST(struct mount, real_mount((struct vfsmount *)k->mnt));
		u64 up = (u64)m->mnt_parent;

		if (up == k->mnt - bpf_core_field_offset(struct mount, mnt)) { /* the root of the namespace */
			k->same = !at;
			return 1;
		}
		k->dentry = (u64)m->mnt_mountpoint;
		k->mnt = up + bpf_core_field_offset(struct mount, mnt);
		return 0;
	}
	len = CAST(struct dentry___parts, k->dentry)->d_name.len;
	parent = (u64)dentry->d_parent;
	if (!len || len >= at || at >= FOLDER_PATH || parent == k->dentry)
		return 1;
	at -= len;
	if (k->kept->path[(at - 1) & (FOLDER_PATH - 1)] != '/')
		return 1;
	k->name = (u64)dentry->d_name.name;
	k->len = len;
	k->at = at;
	if (word_differs(0, k)) /* most names have no other */
		return 1;
	if (len > 8) {
		bpf_loop((len - 1) / 8, again_word, k, 0);
		if (k->differs)
			return 1;
	}
	k->at = at - 1;
	k->dentry = parent;
	return 0;
}

/*
 * Is the path of the folder that is kept the one that is kept with it? 0 also where it can't be told in this way. (Not inline:
 * the verifier looks at it once, and so lets it have no pointers of the kernel; the entry has their addresses.)
 */
__noinline int folder_again(const struct folder_way *kept)
{
	struct again k = { .kept = kept };

	if (!constants.memory || !can_cast() || !kept || !kept->len)
		return 0;
	k.mnt = kept->place.mnt;
	k.dentry = kept->place.dentry;
	k.at = kept->len - 1;
	bpf_loop(AGAIN_STEPS, again_step, &k, 0);
	return k.same;
}

#endif
