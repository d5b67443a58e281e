// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The number of a new hold, for the supervisor of the seccomp point: the same numbers as the hooks give, and never one
 * twice. Run by user space (BPF_PROG_RUN) with room for a u64.
 */
#include "lib/act.bpf.h"

SEC("syscall")
int number_hold(u64 *number)
{
	*number = hold_new();
	return 0;
}
