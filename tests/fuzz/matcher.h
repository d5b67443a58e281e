// SPDX-License-Identifier: Apache-2.0
/* A verdict by the tables in words[] and agent_slot, as the kernel gives it; host.h says by what means. */
#ifndef AGENTD_TEST_FUZZ_MATCHER_H
#define AGENTD_TEST_FUZZ_MATCHER_H

#include "host.h"

#include "../../bpf/pages.bpf.c"
#include "../../bpf/lookup.bpf.c"
#include "../../bpf/hosts.bpf.c"

/* argv: of an exec, `args` bytes of strings with their NULs, of which `readable` can be read. */
static void decide(struct verdict *v, u32 op, const uint8_t *object, size_t size, const uint8_t *argv, size_t args,
		   size_t readable)
{
	memset(v, 0xee, sizeof(*v));
	work->set = 0;
	if (op >= AGENTD_PATH_OPS) {
		size = size < AGENTD_HOST_KEY_MAX ? size : AGENTD_HOST_KEY_MAX;
		memcpy(work->path, object, size);
		host_verdict(v, 0, 0, op, size);
		return;
	}
	work->path_off = AGENTD_PATH_MAX - size;
	memcpy(work->path + work->path_off, object, size);
	if (op != AGENTD_OP_EXEC) {
		path_verdict(v, 0, 0, op);
		return;
	}
	user_bytes = argv;
	user_size = readable;
	program_here(work, 0, args);
	exec_verdict(v, 0, 0);
}

#endif
