/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * verdict(agent, operation, object) -> outcome: pure. It reads the tables and the object and writes nothing but the
 * object's hash; recording comes after and never changes it. Anything that can't be looked up is the family's default:
 * deny, by the rule `unresolved`.
 */
#ifndef AGENTD_VERDICT_BPF_H
#define AGENTD_VERDICT_BPF_H

#include "automaton.bpf.h"
#include "scope.bpf.h"
#include "scratch.bpf.h"

/* What stands when not even the tables can be read. */
static __always_inline void verdict_deny(struct verdict *v)
{
	__builtin_memset(v, 0, sizeof(*v));
	v->outcome = 0xffffffff;
	v->rule = AGENTD_RULE_UNRESOLVED;
	v->decision = AGENTD_DENY;
	v->action = AGENTD_ACTION_DENY;
	v->unresolved = 1;
}

/* The tables in force for an agent: one read of `active`, and everything after uses the same set. */
static __always_inline const struct agentd_tables *tables_of(const struct agentd_agent *a, u32 *generation)
{
	u32 active = *(volatile const u32 *)&a->active & 1;

	*generation = a->generation[active];
	return &a->tables[active];
}

static __always_inline void verdict_outcome(struct verdict *v, const u32 *a, const struct agentd_tables *t, u32 outcome)
{
	u32 at = t->base + t->outcomes + outcome * AGENTD_OUTCOME_WORDS, word;

	if (outcome >= t->n_outcomes)
		return; /* stays what verdict_deny() made it */
	word = arena_word(a, at);
	v->outcome = outcome;
	v->decision = word;
	v->action = word >> 8;
	v->risk = word >> 16;
	v->rule = arena_word(a, at + 1);
	v->toolop = arena_word(a, at + 2);
	v->timeout = arena_word(a, at + 3);
	v->unresolved = v->rule == AGENTD_RULE_UNRESOLVED;
}

/* The object of `op` could not be resolved: the outcome that the policy gives for that. */
static __always_inline void verdict_unresolved(struct verdict *v, u32 agent, u32 op)
{
	const struct agentd_agent *slot = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;

	verdict_deny(v);
	stat_add(AGENTD_STAT_UNRESOLVED, 1);
	if (!slot || !a || op >= AGENTD_OP_COUNT || !(slot->flags & AGENTD_AGENT_USED))
		return;
	t = tables_of(slot, &v->generation);
	verdict_outcome(v, a, t, t->unresolved[op]);
	v->unresolved = 1;
	if (v->decision == AGENTD_ALLOW)
		v->decision = AGENTD_DENY;
}

/* lookup.bpf.c */
u32 path_class(u32 slot, u32 agent, u32 op);
int args_scan(u32 slot, u32 agent, u64 start, u64 end);

/*
 * A path class, its operation and, for exec, the argument groups in scratch->masks give an outcome; the rules' class turns
 * it into another or leaves it. Running out of a list's bound leaves deny.
 * A reload between path_class() and here would mix two generations: path_verdict() compares the generation before and
 * after and runs again.
 */
static __always_inline void class_verdict(struct verdict *v, struct scratch *s, const u32 *a,
					  const struct agentd_tables *t, u32 class, u32 op)
{
	u32 outcome = 0xffffffff, list, count;

	if (op == AGENTD_OP_EXEC) {
		list = t->base + arena_word(a, t->base + t->exec_classes + class);
		count = arena_word(a, list);
		for (u32 i = 0; i < AGENTD_LIST_MAX; i++) {
			u32 group;

			if (i >= count)
				break;
			group = arena_word(a, list + 1 + i * 2);
			if (group == AGENTD_NO_GROUP ||
			    (s->masks[(group >> 5) & (AGENTD_ARG_WORDS - 1)] >> (group & 31)) & 1) {
				outcome = arena_word(a, list + 2 + i * 2);
				break;
			}
		}
	} else {
		outcome = arena_word(a, t->base + t->path_classes + class * AGENTD_PATH_OPS + op);
	}
	list = t->base + arena_word(a, t->base + t->rule_classes + s->dfa.rules);
	count = arena_word(a, list);
	if (count > AGENTD_LIST_MAX)
		return; /* not a list that user space writes: stays deny */
	for (u32 i = 0; i < AGENTD_LIST_MAX; i++) {
		if (i >= count)
			break;
		if (arena_word(a, list + 1 + i * 2) == outcome) {
			outcome = arena_word(a, list + 2 + i * 2);
			break;
		}
	}
	verdict_outcome(v, a, t, outcome);
}

/* The verdict on the object in scratch->path. */
static __noinline void path_verdict(struct verdict *v, u32 slot, u32 agent, u32 op)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();

	for (int attempt = 0; attempt < 3; attempt++) { /* three reloads during one verdict: deny */
		const struct agentd_tables *t;
		u32 before, class, after;

		verdict_deny(v);
		if (!s || !ag || !a || op >= AGENTD_PATH_OPS || !(ag->flags & AGENTD_AGENT_USED))
			return;
		tables_of(ag, &before);
		class = path_class(slot, agent, op);
		if (class == NO_SLOT)
			return;
		t = tables_of(ag, &after);
		if (before != after)
			continue;
		v->generation = after;
		class_verdict(v, s, a, t, class, op);
		return;
	}
	verdict_deny(v);
}

/* The verdict on an address: `key` as abi.h describes it. */
static __noinline void host_verdict(struct verdict *v, u32 slot, u32 agent, u32 op, u32 len)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	struct dfa_run *run;
	u32 class;

	verdict_deny(v);
	if (!s || !ag || !a || op < AGENTD_PATH_OPS || op >= AGENTD_OP_COUNT || len > AGENTD_HOST_KEY_MAX ||
	    !(ag->flags & AGENTD_AGENT_USED))
		return;
	t = tables_of(ag, &v->generation);
	run = &s->dfa;
	dfa_open(run, t->base, &t->host);
	run->pos = 0;
	run->end = len;
	dfa_seed(run);
	dfa_feed(s, a);
	s->hash[0] = run->hash[0];
	s->hash[1] = run->hash[1];
	class = dfa_accept(a, run);
	verdict_outcome(v, a, t,
			arena_word(a, t->base + t->host_classes + class * AGENTD_HOST_OPS + (op - AGENTD_PATH_OPS)));
}

/* Which of two verdicts stands when an operation has two objects or two kinds of access: the more severe one. */
static __always_inline bool worse(const struct verdict *v, const struct verdict *than)
{
	if (v->decision != than->decision)
		return v->decision > than->decision;
	return v->decision == AGENTD_DENY && v->action == AGENTD_ACTION_KILL && than->action != AGENTD_ACTION_KILL;
}

#endif
