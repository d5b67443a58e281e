/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Loads from kernel addresses, where the verifier takes them. */
#ifndef AGENTD_LOAD_BPF_H
#define AGENTD_LOAD_BPF_H

#include "kernel.bpf.h"

/*
 * A pointer to a structure at a kernel address: what is read through it is read by a load, and not by a call of a helper.
 * Since Linux 6.2; where can_cast() is false it must not be used.
 */
extern void *bpf_rdonly_cast(const void *address, u32 type) __ksym __weak;
#define CAST(type, address) ((type *)bpf_rdonly_cast((const void *)(address), bpf_core_type_id_kernel(type)))

static __always_inline bool can_cast(void)
{
	return bpf_rdonly_cast;
}

/* The eight bytes at a kernel address, in the same way. */
#define WORD_AT(address) \
	((u64)CAST(struct timespec64, address)->tv_sec) /* a structure that begins with a number of 64 bits */

/* A field of the structure at a kernel address, by a load where that is possible. */
#define LOAD(type, address, field)                                                   \
	({                                                                           \
		type *___at = (type *)(address);                                     \
		can_cast() ? CAST(type, ___at)->field : BPF_CORE_READ(___at, field); \
	})

/*
 * The same pointer, of which nothing is to be trusted. For each field that is a pointer and is read through one that the
 * verifier trusts (the current task, what a hook is given) Linux 6.3 and newer look by name through all types of the kernel, up
 * to four times: a third of all it took to load the programs. Not for what is handed to a helper or a kfunc, and not for
 * numbers on the way that is taken most: those cost nothing to look at, and a load from an address that isn't trusted is eight
 * instructions instead of one.
 */
#define PLAIN(type, pointer) (can_cast() ? CAST(type, pointer) : (type *)(pointer))

#endif
