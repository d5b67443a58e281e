/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Calls that the seccomp filter of a workload has handed to the supervisor (agentd/kernel/notify), which has judged them
 * before their effect: they are not judged, counted and asked about again. Only what the supervisor carries out itself, or
 * what lies in registers: a call whose name the kernel reads from the caller's memory after the supervisor did is judged by
 * the trace point as well. Whether an open is handed over is decided by its flags, in a register, as the filter does.
 */
#ifndef AGENTD_SUPERVISED_BPF_H
#define AGENTD_SUPERVISED_BPF_H

#include "call.bpf.h"

#define OPEN_PATH 010000000
#define OPEN_CHANGES (3 | 0100 | 01000) /* O_ACCMODE, O_CREAT, O_TRUNC */

static __always_inline bool changes(u64 flags)
{
	return !(flags & OPEN_PATH) && flags & OPEN_CHANGES;
}

static __always_inline bool supervised(const struct call *c)
{
	if (!(c->tag->flags & AGENTD_TAG_NOTIFIED))
		return false;
	switch (c->kind) {
	case CALL_OPEN:
		return changes(argument(c, 1));
	case CALL_OPENAT:
	case CALL_OPEN_BY_HANDLE:
		return changes(argument(c, 2));
	case CALL_CREAT:
	case CALL_OPENAT2:
	case CALL_UNSHARE:
	case CALL_SETNS:
	case CALL_CLONE:
	case CALL_PTRACE:
	case CALL_VM_READ:
	case CALL_VM_WRITE:
	case CALL_PIDFD_GETFD:
	case CALL_MOUNT:
	case CALL_UMOUNT:
		return true;
	}
	return c->kind >= CALL_UNLINK && c->kind <= CALL_FSETATTR;
}

#endif
