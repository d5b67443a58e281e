// SPDX-License-Identifier: Apache-2.0
/*
 * Row 36: asks name servers and visits addresses, and tries to be believed as one. `names STEP...`, where a step is
 * WORD/ARGUMENT/..., and sockets have numbers:
 *
 *   enter/FD              into the network namespace of an inherited descriptor
 *   udp/N  six-udp/N  raw/N  packet/N    a new socket; fd/N/FD: an inherited one
 *   bind/N/ADDRESS/PORT   connect/N/ADDRESS/PORT
 *   aim/N/ADDRESS/PORT    connect, and says nothing
 *   send/N/NAME/ADDRESS   the question for the address of NAME, to port 53; six/...: for its v6 address
 *   recv/N                prints the last four bytes of what comes
 *   lie/N/ADDRESS         receives a question and answers it with ADDRESS
 *   whole/N/M/SERVER/ADDRESS    a raw packet for socket M, an answer that says it is of SERVER; pieces/...: in two
 *                         fragments; wrapped/...: as the payload of another packet
 *   route/N/VIA           packets of socket N go to VIA first, by an IPv4 option; six-route/N/VIA: by a routing header
 *   hello/N/ADDRESS/PORT  a datagram; hello/N/ADDRESS/PORT/VIA: with a route of its own; twice/...: behind one without
 *   visit/ADDRESS/PORT    a TCP connection
 *   sleep/MILLISECONDS
 *
 * Each bind, connect, visit, hello, lie, whole, pieces, wrapped and failed send or route prints
 * `ok` or `errno`.
 */
#include "probe.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <time.h>

#define SOCKETS 4
#define ID 4711
#define ASKED "www.example.test"

static int sockets[SOCKETS];
static char *part[8]; /* of the step */

static socklen_t place(struct sockaddr_storage *to, const char *text, int port)
{
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
	struct sockaddr_in *v4 = (struct sockaddr_in *)to;

	memset(to, 0, sizeof(*to));
	if (strchr(text, ':')) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		inet_pton(AF_INET6, text, &v6->sin6_addr);
		return sizeof(*v6);
	}
	v4->sin_family = AF_INET;
	v4->sin_port = htons(port);
	inet_pton(AF_INET, text, &v4->sin_addr);
	return sizeof(*v4);
}

static size_t question(unsigned char *to, const char *name, int type)
{
	unsigned char *at = to;

	memcpy(at, (unsigned char[]){ ID >> 8, ID & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0 }, 12);
	at += 12;
	for (size_t n; *name; name += n + (name[n] == '.')) {
		n = strcspn(name, ".");
		*at++ = n;
		memcpy(at, name, n);
		at += n;
	}
	memcpy(at, (unsigned char[]){ 0, 0, type, 0, 1 }, 5);
	return at + 5 - to;
}

/* Makes the question an answer: one record, of an hour. */
static size_t answer(unsigned char *message, size_t size, const char *address)
{
	message[2] = 0x81;
	message[3] = 0x80;
	message[7] = 1;
	memset(message + 8, 0, 4);
	memcpy(message + size, (unsigned char[]){ 0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4 }, 12);
	inet_pton(AF_INET, address, message + size + 12);
	return size + 16;
}

static void lie(int s, const char *address)
{
	unsigned char message[600];
	struct sockaddr_storage client;
	socklen_t size = sizeof(client);
	ssize_t n = recvfrom(s, message, 500, 0, (struct sockaddr *)&client, &size);

	result(n < 0 ? -1 : sendto(s, message, answer(message, n, address), 0, (struct sockaddr *)&client, size));
}

static unsigned short sum(const void *data, size_t size)
{
	const unsigned short *word = data;
	unsigned total = 0;

	for (; size > 1; size -= 2)
		total += *word++;
	total = (total & 0xffff) + (total >> 16);
	return ~(total + (total >> 16));
}

/* One packet from `server` to this host, `size` bytes of `data`, which stand at `offset` of a bigger one. */
static int packet(int s, const char *server, int protocol, const void *data, size_t size, int offset)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_ll lo = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = 1, .sll_halen = 6
	};
	socklen_t length = sizeof(int);
	int family;
	char bytes[700];
	struct iphdr ip = { .ihl = 5, .version = 4, .id = htons(77), .ttl = 64, .protocol = protocol };

	inet_pton(AF_INET, server, &ip.saddr);
	ip.daddr = to.sin_addr.s_addr;
	ip.tot_len = htons(sizeof(ip) + size);
	ip.frag_off = htons(offset);
	ip.check = sum(&ip, sizeof(ip));
	memcpy(bytes, &ip, sizeof(ip));
	memcpy(bytes + sizeof(ip), data, size);
	if (getsockopt(s, SOL_SOCKET, SO_DOMAIN, &family, &length))
		return -1;
	return sendto(s, bytes, sizeof(ip) + size, 0, family == AF_PACKET ? (void *)&lo : &to,
		      family == AF_PACKET ? sizeof(lo) : sizeof(to));
}

/* An answer for socket `m`, made by hand and sent by raw socket `s`. */
static void forge(const char *how, int s, int m, const char *server, const char *address)
{
	unsigned char udp[700] = { 0, 53 };
	struct sockaddr_in own;
	socklen_t size = sizeof(own);
	size_t n = question(udp + 8, ASKED, 1);

	getsockname(m, (struct sockaddr *)&own, &size);
	n = 8 + answer(udp + 8, n, address);
	memcpy(udp + 2, &own.sin_port, 2);
	udp[4] = n >> 8;
	udp[5] = n;
	if (!strcmp(how, "pieces")) {
		if (packet(s, server, IPPROTO_UDP, udp, 16, IP_MF) < 0)
			result(-1);
		else
			result(packet(s, server, IPPROTO_UDP, udp + 16, n - 16, 2));
	} else if (!strcmp(how, "wrapped")) {
		result(packet(s, server, IPPROTO_IPIP, udp, n, 0));
	} else {
		result(packet(s, server, IPPROTO_UDP, udp, n, 0));
	}
}

static void receive(int s)
{
	unsigned char message[4096];
	ssize_t n = recv(s, message, sizeof(message), 0);
	char line[32];

	if (n < 4)
		strcpy(line, "data nothing\n");
	else
		snprintf(line, sizeof(line), "data %d.%d.%d.%d\n", message[n - 4], message[n - 3], message[n - 2],
			 message[n - 1]);
	say(line);
}

static void loose_route(unsigned char *to, const char *via)
{
	memcpy(to, (unsigned char[]){ IPOPT_NOP, IPOPT_LSRR, 7, 4 }, 4);
	inet_pton(AF_INET, via, to + 4);
}

/* A segment routing header (RFC 8754): to `via`, then to where the socket sends. */
static int segment_route(int s, const char *via)
{
	unsigned char header[40] = { 0, 4, 4, 1, 1 };

	inet_pton(AF_INET6, via, header + 24);
	return setsockopt(s, IPPROTO_IPV6, IPV6_RTHDR, header, sizeof(header));
}

/* twice: as the second of two messages that go to one address in one call */
static int hello(int s, const char *address, int port, const char *via, int twice)
{
	char control[CMSG_SPACE(8)] __attribute__((aligned(8))) = { 0 };
	struct iovec text = { "hello", 5 };
	struct sockaddr_storage to;
	struct msghdr message = { &to, place(&to, address, port), &text, 1 };
	struct mmsghdr both[2] = { { message } };
	struct cmsghdr *c;

	if (via) {
		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = IPPROTO_IP;
		c->cmsg_type = IP_RETOPTS;
		c->cmsg_len = CMSG_LEN(8);
		loose_route(CMSG_DATA(c), via);
	}
	both[1].msg_hdr = message;
	return twice ? sendmmsg(s, both, 2, 0) - 1 : sendmsg(s, &message, 0);
}

static int opened(int s, int wait)
{
	struct timeval time = { wait, 0 };

	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
	return s;
}

/* Nothing more is done without it. */
static void needed(int error)
{
	if (!error)
		return;
	result(-1);
	_exit(0);
}

static void step(void)
{
	const char *word = part[0];
	struct sockaddr_storage to;
	unsigned char message[600];
	socklen_t size;
	int n = atoi(part[1] ?: "0") & (SOCKETS - 1), six = !strcmp(word, "six"), s;

	if (!strcmp(word, "enter")) {
		if (setns(atoi(part[1]), CLONE_NEWNET))
			_exit(96);
	} else if (!strcmp(word, "udp")) {
		sockets[n] = opened(socket(AF_INET, SOCK_DGRAM, 0), 2);
	} else if (!strcmp(word, "six-udp")) {
		sockets[n] = opened(socket(AF_INET6, SOCK_DGRAM, 0), 2);
	} else if (!strcmp(word, "raw")) {
		sockets[n] = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	} else if (!strcmp(word, "packet")) {
		sockets[n] = socket(AF_PACKET, SOCK_DGRAM, 0);
	} else if (!strcmp(word, "fd")) {
		sockets[n] = opened(atoi(part[2]), 2);
	} else if (!strcmp(word, "bind") || !strcmp(word, "connect")) {
		size = place(&to, part[2], atoi(part[3]));
		result((*word == 'b' ? bind : connect)(sockets[n], (struct sockaddr *)&to, size));
	} else if (!strcmp(word, "send") || six) {
		size = place(&to, part[3], 53);
		if (sendto(sockets[n], message, question(message, part[2], six ? 28 : 1), 0, (struct sockaddr *)&to,
			   size) < 0)
			result(-1);
	} else if (!strcmp(word, "recv")) {
		receive(sockets[n]);
	} else if (!strcmp(word, "lie")) {
		lie(sockets[n], part[2]);
	} else if (!strcmp(word, "whole") || !strcmp(word, "pieces") || !strcmp(word, "wrapped")) {
		forge(word, sockets[n], sockets[atoi(part[2]) & (SOCKETS - 1)], part[3], part[4]);
	} else if (!strcmp(word, "aim")) {
		size = place(&to, part[2], atoi(part[3]));
		if (connect(sockets[n], (struct sockaddr *)&to, size))
			_exit(95);
	} else if (!strcmp(word, "route")) {
		loose_route(message, part[2]);
		needed(setsockopt(sockets[n], IPPROTO_IP, IP_OPTIONS, message, 8));
	} else if (!strcmp(word, "six-route")) {
		needed(segment_route(sockets[n], part[2]));
	} else if (!strcmp(word, "hello") || !strcmp(word, "twice")) {
		result(hello(sockets[n], part[2], atoi(part[3]), part[4], *word == 't'));
	} else if (!strcmp(word, "visit")) {
		size = place(&to, part[1], atoi(part[2]));
		s = opened(socket(to.ss_family, SOCK_STREAM, 0), 20);
		result(connect(s, (struct sockaddr *)&to, size));
		close(s);
	} else if (!strcmp(word, "sleep")) {
		usleep(1000 * atoi(part[1]));
	} else {
		_exit(97);
	}
}

static int names_word(int argc, char **argv)
{
	say("attempt\n");
	for (int i = 1; i < argc; i++) {
		char *rest = argv[i];

		memset(part, 0, sizeof(part));
		for (int k = 0; k < 7 && rest; k++)
			part[k] = strsep(&rest, "/");
		step();
	}
	return 0;
}

const struct word name_words[] = { { "names", 1, names_word }, { 0 } };
