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

/*
 * The tables in force for an agent: one read of `active` a decision, kept in the work buffer, so that a reload between the
 * arguments, the path and the rules can't make a verdict of two policies. User space writes a set again only when every
 * program that may be reading it has ended.
 */
static __always_inline const struct agentd_tables *tables_of(const struct agentd_agent *a, struct scratch *s,
							     u32 *generation)
{
	u32 set;

	if (!s->set)
		s->set = 1 + (*(volatile const u32 *)&a->active & 1);
	set = (s->set - 1) & 1;
	*generation = a->generation[set];
	return &a->tables[set];
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
__noinline int verdict_unresolved(struct verdict *v, u32 agent, u32 op)
{
	const struct agentd_agent *slot = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	u32 set;

	if (!v)
		return 0;
	verdict_deny(v);
	stat_add(AGENTD_STAT_UNRESOLVED, 1);
	if (!slot || !a || op >= AGENTD_OP_COUNT || !(slot->flags & AGENTD_AGENT_USED))
		return 0;
	set = *(volatile const u32 *)&slot->active & 1;
	t = &slot->tables[set];
	v->generation = slot->generation[set];
	verdict_outcome(v, a, t, t->unresolved[op]);
	v->unresolved = 1;
	if (v->decision == AGENTD_ALLOW)
		v->decision = AGENTD_DENY;
	return 0;
}

/* lookup.bpf.c */
u32 path_class(u32 slot, u32 agent, u32 op);
int args_scan(u32 slot, u32 agent);

/*
 * A walk over a list of pairs {count, (a, b) * count}: a callback, because 512 turns of a loop in each program are most of
 * what the verifier would have to look at.
 */
struct list_loop {
	const struct scratch *s;
	const u32 *arena;
	u32 at; /* of the next pair */
	u32 outcome; /* what is looked for, and what is found */
};

/* The first candidate without a group, or whose group was seen. */
static long candidate_step(u32 i, struct list_loop *l)
{
	u32 group = arena_word(l->arena, l->at);

	if (group == AGENTD_NO_GROUP || (l->s->masks[(group >> 5) & (AGENTD_ARG_WORDS - 1)] >> (group & 31)) & 1) {
		l->outcome = arena_word(l->arena, l->at + 1);
		return 1;
	}
	if (l->s->args.failed)
		return 1; /* an argument that was not read may be in this group: stays deny */
	l->at += 2;
	return 0;
}

static long override_step(u32 i, struct list_loop *l)
{
	u32 plain = arena_word(l->arena, l->at);

	if (plain == l->outcome || plain == (AGENTD_BY_OP | l->s->op)) {
		l->outcome = arena_word(l->arena, l->at + 1);
		return 1;
	}
	l->at += 2;
	return 0;
}

/*
 * A path class, its operation and, for exec, the argument groups in scratch->masks give an outcome; the rules' class turns
 * it into another or leaves it. A list longer than user space writes, or without an end, leaves deny.
 */
static __always_inline void class_verdict(struct verdict *v, struct scratch *s, const u32 *a,
					  const struct agentd_tables *t, u32 class, u32 op)
{
	struct list_loop l = { .s = s, .arena = a, .outcome = 0xffffffff };
	u32 list, count;

	if (op == AGENTD_OP_EXEC || op == AGENTD_OP_CALL) {
		/* of a call the list stands behind its automata (text.bpf.c) */
		list = op == AGENTD_OP_EXEC ? t->base + arena_word(a, t->base + t->exec_classes + class) : s->args.list;
		count = arena_word(a, list);
		if (count > AGENTD_LIST_MAX)
			return;
		l.at = list + 1;
		bpf_loop(count, candidate_step, &l, 0);
	} else {
		l.outcome = arena_word(a, t->base + t->path_classes + class * AGENTD_PATH_OPS + op);
	}
	s->op = op;
	list = t->base + arena_word(a, t->base + t->rule_classes + s->rules_class);
	count = arena_word(a, list);
	if (count > AGENTD_LIST_MAX)
		return;
	if (count) {
		l.at = list + 1;
		bpf_loop(count, override_step, &l, 0);
	}
	verdict_outcome(v, a, t, l.outcome);
}

/*
 * The verdict on the object in scratch->path, in *v. This and other functions with pointers to memory are global, and so
 * verified once and not at every call; the price is a check for NULL, and a number returned (6.1 wants one).
 */
__noinline int path_verdict(struct verdict *v, u32 slot, u32 agent, u32 op)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	u32 class;

	if (!v)
		return 0;
	verdict_deny(v);
	if (!s || !ag || !a || op >= AGENTD_PATH_OPS || !(ag->flags & AGENTD_AGENT_USED))
		return 0;
	class = path_class(slot, agent, op);
	if (class != NO_SLOT)
		class_verdict(v, s, a, tables_of(ag, s, &v->generation), class, op);
	return 0;
}

/*
 * The verdict on an exec whose program is not in place yet: the path stands in scratch->path, the arguments are where
 * scratch->program says, and read only if they may decide, or if somebody will be told. Afterwards scratch->path may hold
 * something else (the return value is 1 then). Arguments that can't be read leave deny.
 */
__noinline int exec_verdict(struct verdict *v, u32 slot, u32 agent)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	bool scanned = false;
	u32 class;

	if (!v)
		return 0;
	verdict_deny(v);
	if (!s || !ag || !a || !(ag->flags & AGENTD_AGENT_USED))
		return 0;
	s->args.kept = 0;
	s->args.failed = 0;
	class = path_class(slot, agent, AGENTD_OP_EXEC);
	if (class == NO_SLOT)
		return 0;
	t = tables_of(ag, s, &v->generation);
	if (arena_word(a, t->base + arena_word(a, t->base + t->exec_classes + class) + 1) != AGENTD_NO_GROUP) {
		args_scan(slot, agent);
		scanned = true;
	}
	class_verdict(v, s, a, t, class, AGENTD_OP_EXEC);
	if (v->outcome == 0xffffffff) /* an argument that was not read could have decided */
		verdict_unresolved(v, agent, AGENTD_OP_EXEC);
	if (v->decision == AGENTD_ALLOW || scanned)
		return scanned;
	/* an approval is for these very arguments: without them nobody can be asked */
	if (args_scan(slot, agent) && v->decision == AGENTD_REQUIRE_APPROVAL)
		v->decision = AGENTD_DENY;
	return 1;
}

static __always_inline u32 host_outcome(const u32 *a, const struct agentd_tables *t, const struct dfa_run *run, u32 op)
{
	u32 class = dfa_accept(a, run);

	return arena_word(a, t->base + t->host_classes + class * AGENTD_HOST_OPS + (op - AGENTD_PATH_OPS));
}

/* Has the agent's policy names of hosts? */
static __always_inline bool knows_names(u32 agent)
{
	const struct agentd_agent *ag = agent_get(agent);

	return !ag || ag->tables[*(volatile const u32 *)&ag->active & 1].n_names;
}

/* hosts.bpf.c: the best outcome by the names of the address in the key, of which `len` bytes stand in scratch->path. */
int host_named(u32 slot, u32 agent, u32 op, u32 len);

/*
 * The verdict on an address: scratch->path holds the key as abi.h describes it, but for the class of the name. Returns the
 * length of the object: the key, and behind it the name that was judged by. An address with several names is judged by
 * each of them, and what the first rule says stands. Only what is reached has names.
 */
__noinline int host_verdict(struct verdict *v, u32 slot, u32 agent, u32 op, u32 len)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	struct dfa_run *run;
	u32 named;

	if (!v)
		return 0;
	verdict_deny(v);
	if (!s || !ag || !a || op < AGENTD_PATH_OPS || op >= AGENTD_OP_COUNT || len >= AGENTD_HOST_KEY_MAX ||
	    !(ag->flags & AGENTD_AGENT_USED))
		return 0;
	t = tables_of(ag, s, &v->generation);
	run = &s->dfa;
	dfa_open(run, t->base, &t->host);
	run->pos = 0;
	run->end = len;
	dfa_seed(run);
	dfa_feed(slot);
	if (t->n_names && s->netns && (op == AGENTD_OP_CONNECT || op == AGENTD_OP_SEND)) {
		named = host_named(slot, agent, op, len);
		if (named) {
			verdict_outcome(v, a, t, s->names.outcome);
			return len + 1 + named;
		}
		dfa_open(run, t->base, &t->host);
		run->state = s->names.state;
		run->hash[0] = s->names.hash[0];
		run->hash[1] = s->names.hash[1];
	}
	FORGET(len);
	s->path[len & 31] = 0; /* no name */
	run->pos = len;
	run->end = len + 1;
	dfa_feed(slot);
	s->hash[0] = run->hash[0];
	s->hash[1] = run->hash[1];
	verdict_outcome(v, a, t, host_outcome(a, t, run, op));
	return len + 1;
}

/* Which of two verdicts stands when an operation has two objects or two kinds of access: the more severe one. */
static __always_inline bool worse(const struct verdict *v, const struct verdict *than)
{
	if (v->decision != than->decision)
		return v->decision > than->decision;
	return v->decision == AGENTD_DENY && v->action == AGENTD_ACTION_KILL && than->action != AGENTD_ACTION_KILL;
}

#endif
