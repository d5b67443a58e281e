// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The names of addresses: what an agent knows an address as, and what that decides.
 *
 * host_named()   the outcome of an address by its names, asked by host_verdict()
 * name_learn()   an address from an answer, put by dns.bpf.c
 * name_hold()    what waits for approval keeps its name
 *
 * An entry has four slots, one for each kind of name (class) of the agent's policy. A slot keeps the text, so that a new
 * policy judges the name by its own automaton. Writers claim a slot; readers don't wait: a slot counts only if its keyed
 * hash is right, for the very key it was found by. An element that the map gives to another key meanwhile, and a slot
 * half written, are no name, and no name is what denies.
 *
 * No slot free, or the map full: the name that would expire first, or the address not used for longest, is forgotten.
 */
#include "lib/verdict.bpf.h"

#define NAME_AT 1024 /* where in scratch->path a name is read from */
#define NAME_WORDS (AGENTD_HOST_NAME_ROOM / 8)

static __always_inline u64 name_mix(u64 h, u64 value)
{
	h = (h ^ value) * 0x9E3779B97F4A7C15ull;
	return h ^ (h >> 29);
}

/* The keyed hash that makes scratch->names.slot count under scratch->names.key. */
__noinline u64 name_check(u32 slot)
{
	struct agentd_control *c = control_get();
	struct scratch *s = scratch_get(slot);
	const u64 *address, *name;
	u64 h = c ? c->hash_seed[0] : 0;

	if (!s)
		return 0;
	address = (const u64 *)s->names.key.address;
	name = (const u64 *)s->names.slot.name;
	h = name_mix(h, s->names.key.agent);
	h = name_mix(h, s->names.key.netns);
	h = name_mix(h, address[0]);
	h = name_mix(h, address[1]);
	h = name_mix(h, s->names.slot.expires);
	h = name_mix(h, ((u64)s->names.slot.generation << 32) | s->names.slot.name_class);
	h = name_mix(h, s->names.slot.len);
	for (int i = 0; i < NAME_WORDS; i++)
		h = name_mix(h, name[i]);
	return name_mix(h, c ? c->hash_seed[1] : 0);
}

/* The class of the name in scratch->path[NAME_AT..], of `len` bytes, in the tables that this decision reads. */
__noinline u32 name_class(u32 slot, u32 agent, u32 len)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	struct dfa_run *run;
	u32 generation;

	if (!s || !ag || !a || !len || len > AGENTD_HOST_NAME_MAX || !(ag->flags & AGENTD_AGENT_USED))
		return 0;
	t = tables_of(ag, s, &generation);
	run = &s->dfa;
	dfa_open(run, t->base, &t->name);
	run->pos = NAME_AT;
	run->end = NAME_AT + len;
	dfa_feed(slot);
	return dfa_accept(a, run) & 0xff;
}

/*
 * Judges by the name in scratch->names.slot. Better than by those before: it is kept, and its text written behind the key
 * of `len` bytes.
 */
__noinline int name_judge(u32 slot, u32 agent, u32 op, u32 len)
{
	struct scratch *s = scratch_get(slot);
	const struct agentd_agent *ag = agent_get(agent);
	const u32 *a = arena_get();
	const struct agentd_tables *t;
	u32 generation, class, outcome, at, n;
	struct names_run *r;
	struct dfa_run *run;
	u64 rank;

	if (!s || !ag || !a || op < AGENTD_PATH_OPS || op >= AGENTD_OP_COUNT || len >= AGENTD_HOST_KEY_MAX)
		return 0;
	r = &s->names;
	n = r->slot.len;
	if (!n || n > AGENTD_HOST_NAME_MAX)
		return 0;
	t = tables_of(ag, s, &generation);
	class = r->slot.name_class & 0xff;
	if (r->slot.generation != generation) { /* learned under another policy */
		__builtin_memcpy(&s->path[NAME_AT], r->slot.name, AGENTD_HOST_NAME_ROOM);
		class = name_class(slot, agent, n);
	}
	if (!class)
		return 0;
	run = &s->dfa;
	dfa_open(run, t->base, &t->host);
	run->state = dfa_step(a, run, r->state, class);
	outcome = host_outcome(a, t, run, op);
	at = t->base + t->outcomes + outcome * AGENTD_OUTCOME_WORDS;
	rank = (u64)arena_word(a, at + 1) << 32 | (u64)(arena_word(a, at + 2) & 0xffffff) << 8 |
	       (arena_word(a, at) >> 16 & 0xff);
	if (r->len && rank >= r->rank)
		return 0;
	r->rank = rank;
	r->kept = r->slot.check;
	r->outcome = outcome;
	r->name_class = class;
	r->len = n;
	FORGET(len);
	__builtin_memcpy(&s->path[(len & 31) + 1], r->slot.name, AGENTD_HOST_NAME_ROOM);
	return 0;
}

/* The key of the names of the address in scratch->path, and the number of the resolver it is; 0: of none. */
static __always_inline u32 names_key(struct scratch *s, u32 agent)
{
	struct agentd_name_key *key = &s->names.key;
	struct agentd_resolver_key server = {};
	bool v6 = s->path[0] == '6';
	u32 *number;

	key->agent = agent;
	key->reserved = 0;
	key->netns = s->netns;
	__builtin_memset(key->address, 0, 16);
	if (v6) {
		__builtin_memcpy(key->address, &s->path[2], 16);
	} else {
		key->address[10] = key->address[11] = 0xff;
		__builtin_memcpy(&key->address[12], &s->path[2], 4);
	}
	if (s->path[1] != 'u')
		return 0;
	__builtin_memcpy(server.address, key->address, 16);
	if (v6)
		__builtin_memcpy(&server.port, &s->path[18], 2);
	else
		__builtin_memcpy(&server.port, &s->path[6], 2);
	number = bpf_map_lookup_elem(&resolvers, &server);
	return number ? *number : 0;
}

/*
 * The best outcome by the names of the address: in scratch->names.outcome, the name behind the key. Returns the length of
 * that name; 0: it has none. The host automaton has read the key up to the port.
 */
__noinline int host_named(u32 slot, u32 agent, u32 op, u32 len)
{
	struct scratch *s = scratch_get(slot);
	u64 now = bpf_ktime_get_boot_ns();
	struct agentd_name_entry *entry;
	struct names_run *r;
	const u32 *a = arena_get();
	u32 n;

	if (!s || !a || len >= AGENTD_HOST_KEY_MAX)
		return 0;
	r = &s->names;
	r->state = s->dfa.state;
	r->hash[0] = s->dfa.hash[0];
	r->hash[1] = s->dfa.hash[1];
	r->len = 0;
	r->kept = 0;
	s->resolver = names_key(s, agent);
	if (s->resolver) {
		__builtin_memset(&r->slot, 0, sizeof(r->slot));
		__builtin_memcpy(r->slot.name, "@resolvers", 10);
		r->slot.len = 10;
		name_judge(slot, agent, op, len); /* of no generation: its class is looked up */
	}
	entry = bpf_map_lookup_elem(&names, &r->key);
	for (u32 i = 0; entry && i < AGENTD_NAME_SLOTS; i++) {
		if (entry->slots[i].expires <= now)
			continue;
		bpf_probe_read_kernel(&r->slot, sizeof(r->slot),
				      &entry->slots[i]); /* unrolled, it would be most of this */
		if (r->slot.expires <= now || r->slot.check != name_check(slot))
			continue;
		name_judge(slot, agent, op, len);
	}
	n = r->len;
	if (!n || n > AGENTD_HOST_NAME_MAX)
		return 0;
	FORGET(len);
	s->path[len & 31] = r->name_class;
	s->dfa.pos = len; /* what is counted, and granted, is the address by this name */
	s->dfa.end = len + 1 + n;
	s->dfa.hash[0] = r->hash[0];
	s->dfa.hash[1] = r->hash[1];
	dfa_feed(slot); /* for the hash: the automaton's state means nothing here */
	s->hash[0] = s->dfa.hash[0];
	s->hash[1] = s->dfa.hash[1];
	return n;
}

/* Addresses that no name means (agentd/policy/hosts.py, nameable): this host, this link, multicast, credentials. */
static __always_inline bool nameless(const u8 *address)
{
	u32 words[4];

	__builtin_memcpy(words, address, 16);
	if (!words[0] && !words[1] && words[2] == bpf_htonl(0xffff)) {
		u32 v4 = bpf_ntohl(words[3]);

		return v4 >> 24 == 0 || v4 >> 24 == 127 || v4 >> 16 == 0xa9fe || v4 >= 0xe0000000 || v4 == 0x646464c8 ||
		       v4 == 0xa83f8110 || v4 == 0xc00000c0;
	}
	if (!words[0] && !words[1] && !words[2])
		return true;
	if (address[0] == 0xff || (address[0] == 0xfe && (address[1] & 0xc0) == 0x80))
		return true;
	if (words[0] == bpf_htonl(0xfd000ec2) && !words[1] && !words[2] && words[3] == bpf_htonl(0x254))
		return true;
	return words[0] == bpf_htonl(0xfd2000ce) && !words[1] && !words[2] && words[3] == bpf_htonl(0x254);
}

/*
 * scratch->names.key is the name in scratch->path[NAME_AT..], of `len` bytes and class `class`, for `ttl` seconds.
 * Returns 0 if it is known now.
 */
__noinline int name_learn(u32 slot, u32 class, u32 len, u32 ttl)
{
	struct scratch *s = scratch_get(slot);
	struct agentd_control *c = control_get();
	const struct agentd_agent *ag;
	struct agentd_name_entry *entry;
	struct agentd_name_slot *found;
	u64 now = bpf_ktime_get_boot_ns(), first = ~0ull;
	u32 generation, chosen = 0;
	struct names_run *r;

	if (!s || !c || !class || class > 255 || !len || len > AGENTD_HOST_NAME_MAX)
		return -1;
	r = &s->names;
	ag = agent_get(r->key.agent);
	if (!ag || nameless(r->key.address))
		return -1;
	tables_of(ag, s, &generation);
	if (ttl >> 31) /* RFC 2181, 8 */
		ttl = 0;
	if (ttl < c->name_ttl_min)
		ttl = c->name_ttl_min;
	if (ttl > c->name_ttl_max)
		ttl = c->name_ttl_max;
	__builtin_memset(&r->slot, 0, sizeof(r->slot));
	bpf_probe_read_kernel(r->slot.name, bounded(len, 255), &s->path[NAME_AT]);
	r->slot.expires = now + ttl * 1000000000ull;
	r->slot.generation = generation;
	r->slot.name_class = class;
	r->slot.len = len;
	r->slot.check = name_check(slot);
	entry = bpf_map_lookup_elem(&names, &r->key);
	if (!entry) {
		entry = (struct agentd_name_entry *)s->data;
		__builtin_memset(entry, 0, sizeof(*entry));
		__builtin_memcpy(&entry->slots[0], &r->slot, sizeof(r->slot));
		if (!bpf_map_update_elem(&names, &r->key, entry, BPF_NOEXIST))
			goto known;
		entry = bpf_map_lookup_elem(&names, &r->key); /* another CPU was first, or there is no memory */
		if (!entry)
			goto lost;
	}
	for (u32 i = 0; i < AGENTD_NAME_SLOTS; i++) {
		found = &entry->slots[i];
		if (found->expires > now && found->generation == generation && found->name_class == class) {
			if (found->expires >= r->slot.expires)
				goto known;
			chosen = i;
			break;
		}
		if (found->expires < first) {
			first = found->expires;
			chosen = i;
		}
	}
	found = &entry->slots[chosen & (AGENTD_NAME_SLOTS - 1)];
	if (__sync_val_compare_and_swap(&found->busy, 0, 1)) {
		/* another CPU writes this very slot: take the next one */
		found = &entry->slots[(chosen + 1) & (AGENTD_NAME_SLOTS - 1)];
		if (__sync_val_compare_and_swap(&found->busy, 0, 1))
			goto lost;
	}
	r->slot.busy = 1;
	__builtin_memcpy(found, &r->slot, sizeof(r->slot));
	__sync_lock_test_and_set(&found->busy, 0);
known:
	stat_add(AGENTD_STAT_NAMES, 1);
	return 0;
lost:
	stat_add(AGENTD_STAT_NAMES_LOST, 1);
	return -1;
}

/*
 * What was judged by this name waits for an answer of a person, at most `seconds` from now: so long the name stands, or
 * the approved call would come back to an address without a name.
 */
__noinline int name_hold(u32 slot, u32 seconds)
{
	struct scratch *s = scratch_get(slot);
	u64 until = bpf_ktime_get_boot_ns() + (seconds + 10ull) * 1000000000ull;
	struct agentd_name_entry *entry;
	struct names_run *r;

	if (!s || !s->names.kept)
		return 0;
	r = &s->names;
	entry = bpf_map_lookup_elem(&names, &r->key);
	for (u32 i = 0; entry && i < AGENTD_NAME_SLOTS; i++) {
		struct agentd_name_slot *found = &entry->slots[i];

		if (found->check != r->kept || found->expires >= until)
			continue;
		if (__sync_val_compare_and_swap(&found->busy, 0, 1))
			continue;
		bpf_probe_read_kernel(&r->slot, sizeof(r->slot), found);
		if (r->slot.check == name_check(slot)) {
			r->slot.expires = until;
			found->expires = until;
			found->check = name_check(slot);
		}
		__sync_lock_test_and_set(&found->busy, 0);
	}
	return 0;
}
