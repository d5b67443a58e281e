// SPDX-License-Identifier: Apache-2.0
/* What is sent without a destination that a call names: SCTP's further addresses, AF_XDP's packets, the kernel's events. */
#include "probe.h"

#include <linux/if_xdp.h>
#include <linux/netlink.h>
#include <linux/sctp.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>

#define IS(text) (!strcmp(how, text))

static struct sockaddr_in place(const char *text, const char *port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	inet_pton(AF_INET, text, &to.sin_addr);
	return to;
}

/* Sends to `first`, and names `second` as another address of the same peer. */
static int send_to_both(int s, struct sockaddr_in *first, struct sockaddr_in *second)
{
	char control[CMSG_SPACE(sizeof(struct in_addr))] = { 0 };
	struct iovec part = { "hello", 5 };
	struct msghdr message = { first, sizeof(*first), &part, 1, control, sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);

	c->cmsg_level = IPPROTO_SCTP;
	c->cmsg_type = SCTP_DSTADDRV4;
	c->cmsg_len = CMSG_LEN(sizeof(struct in_addr));
	memcpy(CMSG_DATA(c), &second->sin_addr, sizeof(struct in_addr));
	return sendmsg(s, &message, 0);
}

/* sctp HOW ADDRESS PORT [ADDRESS] */
static int sctp_word(int argc, char **argv)
{
	const char *how = argv[1];
	struct sockaddr_in to[2] = { place(argv[2], argv[3]), place(argc > 4 ? argv[4] : argv[2], argv[3]) };
	int s = socket(AF_INET, IS("many") || IS("both") ? SOCK_SEQPACKET : SOCK_STREAM, IPPROTO_SCTP), value;

	if (s < 0)
		return 0;
	say("attempt\n");
	if (IS("connectx"))
		value = setsockopt(s, IPPROTO_SCTP, 110 /* SCTP_SOCKOPT_CONNECTX */, to,
				   sizeof(*to) * (argc > 4 ? 2 : 1));
	else if (IS("bindx"))
		value = setsockopt(s, IPPROTO_SCTP, 100 /* SCTP_SOCKOPT_BINDX_ADD */, to, sizeof(*to));
	else if (IS("many"))
		value = sendto(s, "hello", 5, 0, (void *)to, sizeof(*to));
	else if (IS("both"))
		value = send_to_both(s, &to[0], &to[1]);
	else
		value = connect(s, (void *)to, sizeof(*to));
	result(value < 0 ? -1 : 0);
	if (value >= 0)
		usleep(300000); /* what is sent before the other side has answered is lost when the socket closes */
	return 0;
}

/* event HOW: tells others that a device is there, as the kernel (HOW is kernel) or udev would; not all kernels pass it on */
static int event_word(int argc, char **argv)
{
	static const char text[] = "add@/devices/virtual/mem/null\0ACTION=add\0DEVPATH=/devices/virtual/mem/null\0"
				   "SUBSYSTEM=mem\0MODALIAS=agentd";
	struct {
		struct nlmsghdr header;
		char text[sizeof(text)];
	} m = { .header = { .nlmsg_len = sizeof(m), .nlmsg_type = 16, .nlmsg_flags = NLM_F_REQUEST } };
	const char *how = argv[1];
	struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_groups = IS("kernel") ? 0 : 2 };
	struct sockaddr_nl at = { .nl_family = AF_NETLINK, .nl_groups = 3 };
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT), sent;
	int ear = socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT);
	struct pollfd waits = { ear, POLLIN };

	bind(ear, (void *)&at, sizeof(at));
	memcpy(m.text, text, sizeof(text));
	sent = sendto(s, &m, sizeof(m), 0, (void *)&to, sizeof(to));
	if (sent >= 0 && !poll(&waits, 1, 1000))
		return 0;
	say("attempt\n");
	result(sent);
	return 0;
}

static unsigned short sum(const void *data, int size)
{
	const unsigned short *w = data;
	unsigned int total = 0;

	for (; size > 0; size -= 2)
		total += *w++;
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return ~total;
}

/* frame HOW PORT: a datagram for this host, by a socket of AF_XDP on the loopback device */
static int frame_word(int argc, char **argv)
{
	const char *how = argv[1];
	int s = socket(AF_XDP, SOCK_RAW, 0), size = 64, value;
	char *memory = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct xdp_umem_reg umem = { .addr = (unsigned long)memory, .len = 1 << 16, .chunk_size = 2048 };
	struct sockaddr_xdp at = { .sxdp_family = AF_XDP,
				   .sxdp_ifindex = if_nametoindex("lo"),
				   .sxdp_flags = XDP_COPY };
	struct xdp_mmap_offsets offsets;
	socklen_t length = sizeof(offsets);
	struct iphdr *ip = (void *)(memory + 14);
	struct udphdr *udp = (void *)(ip + 1);
	struct pollfd waits = { s, POLLOUT };

	if (s < 0 || setsockopt(s, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)) ||
	    setsockopt(s, SOL_XDP, XDP_UMEM_FILL_RING, &size, sizeof(size)) ||
	    setsockopt(s, SOL_XDP, XDP_UMEM_COMPLETION_RING, &size, sizeof(size)) ||
	    setsockopt(s, SOL_XDP, XDP_TX_RING, &size, sizeof(size)) ||
	    getsockopt(s, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length))
		return 1;
	char *ring = mmap(0, offsets.tx.desc + size * sizeof(struct xdp_desc), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, s, XDP_PGOFF_TX_RING);
	struct xdp_desc *descriptor = (void *)(ring + offsets.tx.desc);

	memcpy(memory + 12, "\x08\0", 2);
	*ip = (struct iphdr){ .version = 4,
			      .ihl = 5,
			      .ttl = 64,
			      .protocol = 17,
			      .tot_len = htons(33),
			      .saddr = htonl(INADDR_LOOPBACK),
			      .daddr = htonl(INADDR_LOOPBACK) };
	ip->check = sum(ip, sizeof(*ip));
	*udp = (struct udphdr){ .source = htons(9), .dest = htons(atoi(argv[2])), .len = htons(13) };
	memcpy(udp + 1, "hello", 5);
	say("attempt\n");
	value = bind(s, (void *)&at, sizeof(at));
	if (!value) {
		*descriptor = (struct xdp_desc){ 0, 14 + 33, 0 };
		__atomic_store_n((unsigned int *)(ring + offsets.tx.producer), 1, __ATOMIC_RELEASE);
		value = IS("poll") ? poll(&waits, 1, 100) : sendto(s, 0, 0, MSG_DONTWAIT, 0, 0);
	}
	result(value < 0 ? -1 : 0);
	return 0;
}

const struct word wire_words[] = {
	{ "sctp", 3, sctp_word },
	{ "event", 1, event_word },
	{ "frame", 2, frame_word },
	{ 0 },
};
