// SPDX-License-Identifier: Apache-2.0
/* The kernel's matchers as a shared library, for policies.py: tables go in, questions are answered. */
#include "matcher.h"

#include "../../bpf/message.bpf.c"

#define ARENA_WORDS (1u << 21) /* as policies.py has it */

const volatile struct agentd_constants constants = { .epoch = 1, .arena_mask = ARENA_WORDS - 1, .top_shift = 39 };

/* The tables to be asked, and the agent whose they are. */
void matcher_install(u32 *arena_of, const struct agentd_agent *agent)
{
	if (!work)
		work = calloc(1, sizeof(*work));
	words = arena_of;
	agent_slot = *agent;
}

void matcher_forget(void)
{
	name_there = 0;
}

/* A message that a resolver has answered. -1: it teaches nothing. */
int matcher_learn(const u8 *message, u32 len)
{
	u32 at;

	if (len > MESSAGE_MAX)
		return -1;
	work->set = 0;
	memcpy(work->name[0], message, len);
	work->message.len = len;
	work->netns = 1;
	at = question_read(0);
	return at ? message_learn(0, 0, at) : -1;
}

void matcher_ask(struct verdict *v, u32 op, const u8 *object, u32 size, const u8 *argv, u32 args, u32 named)
{
	work->netns = named;
	decide(v, op, object, size, argv, args, args);
}
