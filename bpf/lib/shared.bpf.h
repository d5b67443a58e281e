/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the LSM hooks share. Walking a path, running the automata, holding and telling are most of what the verifier would have
 * to look at, and it would for each hook anew. So a hook calls shared(), which does nothing but say no, and before any hook is
 * attached the loader puts the one program of shared.bpf.c in its place, in each of them (`freplace`; agentd/kernel/shared.py).
 *
 * Fails: to -EPERM, as long as nothing has taken its place.
 */
#ifndef AGENTD_SHARED_BPF_H
#define AGENTD_SHARED_BPF_H

#include "kernel.bpf.h"

/* What is asked: shared(slot, one of these, an operation, a number). The answer: 0 or the errno, where nothing else is said. */
enum judgement {
	JUDGE_WORD, /* the word in scratch->path, of that length */
	JUDGE_WORD_NOW, /* the same, where the call can't be issued again */
	JUDGE_COMPAT, /* that it is a call of another table */
	JUDGE_UNRESOLVED,
	JUDGE_GUARDED, /* the guard's no */
	JUDGE_TARGETS, /* so many of scratch->target */
	JUDGE_DENTRIES, /* the same, from memory where that is possible (with one, only where can_cast()) */
	JUDGE_BY_FOLDERS, /* the same, from that of their folders alone; NAMES_UNKNOWN: it can't be */
	JUDGE_SOUGHT, /* scratch->mounts.sought, wherever it is seen */
	JUDGE_ENDPOINT, /* the host key in scratch->path, of that length */
	JUDGE_PEER, /* the unix socket whose address is in scratch->target[0].dentry */
	JUDGE_PROGRAM, /* scratch->target[0], with the arguments that scratch->program says */
	FOLDER_RENEW, /* folder_renewed() of that target */
	CHECK_FILE, /* check_file() and so on, in the checking mode of tests */
	CHECK_LEAVES,
	CHECK_NAMES,
};

/* The stand-in, of which no compiler may draw conclusions. */
__noinline int shared(u32 slot, u32 what, u32 op, u32 number)
{
	int error = -1; /* EPERM */

	asm volatile("" : "+r"(error) : "r"(slot), "r"(what), "r"(op), "r"(number) : "memory");
	return error;
}

/*
 * A call that is never made, in front of every other one: then shared() is the first function of the program. When the verifier
 * takes a function out that nobody calls, the kernel gives those behind it each other's properties (func_info_aux stays as it was,
 * adjust_subprog_starts_after_remove()), and may take shared() for one that can't be replaced. Costs one instruction.
 */
#define SHARED_FIRST()                                                                                \
	asm volatile("r0 = 0; if r0 == 0 goto 1f; r1 = 0; r2 = 0; r3 = 0; r4 = 0; call shared; 1:" :: \
			     : "r0", "r1", "r2", "r3", "r4", "r5")

/* The same, as a hook's answer: Linux 6.12 wants to see that it is one. */
static __always_inline int shared_answer(u32 slot, u32 what, u32 op, u32 number)
{
	int error = shared(slot, what, op, number);

	if (!error)
		return 0;
	return error == -513 ? -513 : -1; /* ERESTARTNOINTR, EPERM */
}

#endif
