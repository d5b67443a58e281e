// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The constants that the loader sets before the object is loaded. */
#include "lib/maps.bpf.h"

const volatile struct agentd_constants constants SEC(".rodata.agentd") = { .epoch = 1, .arena_mask = (1 << 18) - 1 };

char LICENSE[] SEC("license") = "Dual BSD/GPL";
