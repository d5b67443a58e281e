// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer over the reader of names: bpf/dns.bpf.c, bpf/message.bpf.c and bpf/hosts.bpf.c, compiled for this host. The
 * input is a packet that a workload sends to a resolver and one that comes back:
 *
 *     byte 0: bit 0: IPv6; bit 1: fill in what makes the second an answer to the first; bit 2: raw packets, as they are
 *     bytes 1, 2: length of the first    then both
 *
 * What must hold: nothing outside the packets and the work buffer is touched, every loop ends, and what was learned is
 * known by a name that was asked for and no other.
 */
#include "matcher.h"

#include "../../bpf/message.bpf.c"
#include "../../bpf/dns.bpf.c"

#define ARENA_WORDS 64u
#define ADDRESS 40 /* the header of the longer protocol, and that of UDP */

const volatile struct agentd_constants constants = { .epoch = 1, .arena_mask = ARENA_WORDS - 1, .top_shift = 39 };
static struct bpf_sock socket_slot = { .type = SOCK_DGRAM };

/* A datagram around a message, in exactly as much memory. */
static uint8_t *wrap(const uint8_t *data, size_t size, int v6, size_t *length)
{
	size_t header = v6 ? 40 : 20;
	uint8_t *made = calloc(1, header + 8 + size);

	made[0] = v6 ? 0x60 : 0x45;
	made[v6 ? 6 : 9] = IPPROTO_UDP;
	made[header + 1] = 53;
	made[header + 4] = (8 + size) >> 8;
	made[header + 5] = 8 + size;
	memcpy(made + header + 8, data, size);
	*length = header + 8 + size;
	return made;
}

static int passes(int (*program)(struct __sk_buff *), const uint8_t *data, size_t size, int v6, int raw)
{
	struct __sk_buff skb = { .protocol = v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP) };
	uint8_t *made = raw ? memcpy(malloc(size + 1), data, size) : wrap(data, size, v6, &size);
	int result;

	skb.sk = &socket_slot;
	packet = raw ? memcpy(malloc(size), data, size) : made;
	packet_size = size;
	result = program(&skb);
	if (raw)
		free((void *)packet);
	free(made);
	return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t first;
	uint8_t *answer;
	int v6, raw;

	if (size < 3)
		return -1;
	v6 = data[0] & 1;
	raw = data[0] >> 2 & 1;
	first = data[1] | data[2] << 8;
	if (first > size - 3)
		first = size - 3;
	work = calloc(1, sizeof(*work));
	words = malloc(ARENA_WORDS * sizeof(*words));
	for (u32 i = 0; i < ARENA_WORDS; i++)
		words[i] = 1; /* every name is of class 1 */
	memset(&agent_slot, 0, sizeof(agent_slot));
	agent_slot.flags = AGENTD_AGENT_USED;
	agent_slot.tables[0].n_names = 1;
	memset(&asked_slot, 0, sizeof(asked_slot));
	asked_slot.resolver = 1;
	asked_slot.netns = 7;
	name_there = 0;
	control_slot.resolver_ports = 0;
	resolver_slot = 0; /* the first does not come from one */
	answer = malloc(size - 3 - first + 1);
	memcpy(answer, data + 3 + first, size - 3 - first);
	if (data[0] & 2 && first >= 2 && size - 3 - first >= 4) {
		memcpy(answer, data + 3, 2);
		answer[2] |= 0x80;
	}
	passes(dns_asks, data + 3, first, v6, raw);
	resolver_slot = 1;
	passes(dns_answers, answer, size - 3 - first, v6, raw);
	if (work->busy)
		abort(); /* a work buffer is lost */
	if (name_there) {
		struct agentd_name_slot *slot = &name_slot.slots[0];
		struct verdict v;
		uint8_t key[18] = { '4', 't' };

		if (!asked_slot.next || !slot->len || slot->len > AGENTD_HOST_NAME_MAX)
			abort(); /* learned what nobody asked for */
		for (u32 i = 0; i < slot->len; i++)
			if (!host_byte(slot->name[i]) && slot->name[i] != '.')
				abort();
		memcpy(key + 2, name_key.address + 12, 4);
		memset(work, 0, sizeof(*work));
		work->netns = 7;
		decide(&v, AGENTD_OP_CONNECT, key, 8, 0, 0, 0);
	}
	free(answer);
	free(work);
	free(words);
	return 0;
}
