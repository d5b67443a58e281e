// SPDX-License-Identifier: Apache-2.0
/* Rows 30 to 36: destinations, and sockets beside TCP and UDP. */
#include "probe.h"

#define IS(text) (!strcmp(how, text))

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un local;
};

static socklen_t internet(union address *to, const char *text, const char *port)
{
	memset(to, 0, sizeof(*to));
	if (strchr(text, ':')) {
		to->v6.sin6_family = AF_INET6;
		to->v6.sin6_port = htons(atoi(port));
		inet_pton(AF_INET6, text, &to->v6.sin6_addr);
		return sizeof(to->v6);
	}
	to->v4.sin_family = AF_INET;
	to->v4.sin_port = htons(atoi(port));
	inet_pton(AF_INET, text, &to->v4.sin_addr);
	return sizeof(to->v4);
}

static int send_many(int s, union address *to, socklen_t size)
{
	struct iovec part = { "hello", 5 };
	struct mmsghdr two[2] = { { { to, size, &part, 1 } }, { { to, size, &part, 1 } } };

	return sendmmsg(s, two, 2, 0);
}

static int reach(const char *how, int stream, int datagram, union address *to, socklen_t size)
{
	struct iovec part = { "hello", 5 };
	struct msghdr message = { to, size, &part, 1 };
	int one = 1;

	if (IS("connect"))
		return connect(stream, &to->any, size);
	if (IS("nonblocking")) {
		fcntl(stream, F_SETFL, O_NONBLOCK);
		return connect(stream, &to->any, size) && errno != EINPROGRESS ? -1 : 0;
	}
	if (IS("fastopen"))
		return sendto(stream, "hello", 5, MSG_FASTOPEN, &to->any, size);
	if (IS("fastopen-option")) {
		setsockopt(stream, IPPROTO_TCP, 30 /* TCP_FASTOPEN_CONNECT */, &one, sizeof(one));
		return connect(stream, &to->any, size) ? -1 : send(stream, "hello", 5, 0);
	}
	if (IS("udp"))
		return connect(datagram, &to->any, size) ? -1 : send(datagram, "hello", 5, 0);
	if (IS("sendto"))
		return sendto(datagram, "hello", 5, 0, &to->any, size);
	if (IS("sendmsg"))
		return sendmsg(datagram, &message, 0);
	if (IS("sendmmsg"))
		return send_many(datagram, to, size);
	errno = EINVAL;
	return -1;
}

/* reach HOW ADDRESS PORT */
static int reach_word(int argc, char **argv)
{
	union address to;
	socklen_t size = internet(&to, argv[2], argv[3]);
	int stream = socket(to.any.sa_family, SOCK_STREAM, 0), datagram = socket(to.any.sa_family, SOCK_DGRAM, 0);

	ATTEMPT(reach(argv[1], stream, datagram, &to, size));
	return 0;
}

/* sendto a denied place from a socket that is connected to an allowed one: elsewhere ADDRESS ALLOWED DENIED */
static int elsewhere_word(int argc, char **argv)
{
	union address good, bad;
	socklen_t size = internet(&good, argv[1], argv[2]);
	int s = socket(good.any.sa_family, SOCK_DGRAM, 0);

	internet(&bad, argv[1], argv[3]);
	if (connect(s, &good.any, size))
		return 1;
	ATTEMPT(sendto(s, "hello", 5, 0, &bad.any, size));
	return 0;
}

/* connected to an allowed place, and then to a denied one: reconnect ADDRESS ALLOWED DENIED */
static int reconnect_word(int argc, char **argv)
{
	union address good, bad;
	socklen_t size = internet(&good, argv[1], argv[2]);
	int s = socket(good.any.sa_family, SOCK_DGRAM, 0);

	internet(&bad, argv[1], argv[3]);
	if (connect(s, &good.any, size))
		return 1;
	ATTEMPT(connect(s, &bad.any, size) ? -1 : send(s, "hello", 5, 0));
	return 0;
}

/* sendto an address of family AF_UNSPEC, which IPv4 takes for one of its own: vague ADDRESS PORT */
static int vague_word(int argc, char **argv)
{
	union address to;
	socklen_t size = internet(&to, argv[1], argv[2]);
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	to.any.sa_family = AF_UNSPEC;
	ATTEMPT(sendto(s, "hello", 5, 0, &to.any, size));
	return 0;
}

/* the same from a raw socket, where IPv6 takes it for one of its own: vague6 ADDRESS PROTOCOL */
static int vague6_word(int argc, char **argv)
{
	union address to;
	socklen_t size = internet(&to, argv[1], "0");
	int s = socket(AF_INET6, SOCK_RAW, atoi(argv[2]));

	to.any.sa_family = AF_UNSPEC;
	ATTEMPT(sendto(s, "hello", 5, 0, &to.any, size));
	return 0;
}

/* sendto a v4 address from a v6 socket: four ADDRESS PORT */
static int four_word(int argc, char **argv)
{
	union address to;
	socklen_t size = internet(&to, argv[1], argv[2]);

	ATTEMPT(sendto(socket(AF_INET6, SOCK_DGRAM, 0), "hello", 5, 0, &to.any, size));
	return 0;
}

/* sendmmsg whose second message goes to a denied port: mixed ADDRESS ALLOWED DENIED */
static int mixed_word(int argc, char **argv)
{
	struct iovec text = { "hello", 5 };
	struct mmsghdr two[2] = { 0 };
	union address to[2];

	for (int i = 0; i < 2; i++)
		two[i].msg_hdr = (struct msghdr){ &to[i], internet(&to[i], argv[1], argv[2 + i]), &text, 1 };
	ATTEMPT(sendmmsg(socket(AF_INET, SOCK_DGRAM, 0), two, 2, 0) == 2 ? 2 : -1);
	return 0;
}

/*
 * a socket of SMC, which connects by TCP inside: smc ADDRESS PORT. Not a TCP socket made one by TCP_ULP: closing one
 * damages the kernel (DECISIONS.md, 2026-11-27).
 */
static int smc_word(int argc, char **argv)
{
	union address to;
	socklen_t size = internet(&to, argv[1], argv[2]);
	int s = socket(43 /* AF_SMC */, SOCK_STREAM, 0);

	if (s < 0) /* not in this kernel: no attempt */
		return 0;
	ATTEMPT(connect(s, &to.any, size));
	return 0;
}

/* connect on an inherited socket: given FD ADDRESS PORT */
static int given_word(int argc, char **argv)
{
	union address to;
	socklen_t size = internet(&to, argv[2], argv[3]);

	ATTEMPT(connect(atoi(argv[1]), &to.any, size) ? -1 : send(atoi(argv[1]), "hello", 5, 0));
	return 0;
}

/* bind TYPE ADDRESS PORT */
static int bind_word(int argc, char **argv)
{
	union address to;
	socklen_t size = internet(&to, argv[2], argv[3]);
	int s = socket(to.any.sa_family, atoi(argv[1]), 0);

	ATTEMPT(bind(s, &to.any, size));
	return 0;
}

/* listen ADDRESS: on any port, and takes a connection that it makes itself */
static int listen_word(int argc, char **argv)
{
	union address to;
	socklen_t size = internet(&to, argv[1], "0");
	int s = socket(to.any.sa_family, SOCK_STREAM, 0), c = socket(to.any.sa_family, SOCK_STREAM, 0);

	if (bind(s, &to.any, size))
		return 1;
	getsockname(s, &to.any, &size);
	say("attempt\n");
	if (listen(s, 4)) {
		result(-1);
		return 0;
	}
	fcntl(c, F_SETFL, O_NONBLOCK);
	connect(c, &to.any, size);
	result(accept(s, 0, 0));
	return 0;
}

/* accept on an inherited socket: accept FD */
static int accept_word(int argc, char **argv)
{
	ATTEMPT(accept(atoi(argv[1]), 0, 0));
	return 0;
}

/* socket FAMILY TYPE PROTOCOL */
static int socket_word(int argc, char **argv)
{
	ATTEMPT(socket(atoi(argv[1]), atoi(argv[2]), atoi(argv[3])));
	return 0;
}

/* unix HOW PATH: HOW is stream, datagram, message or connected; @NAME is an abstract name */
static int unix_word(int argc, char **argv)
{
	const char *how = argv[1];
	union address to = { .local.sun_family = AF_UNIX };
	socklen_t size = sizeof(sa_family_t) + strlen(argv[2]);
	struct iovec part = { "hello", 5 };
	struct msghdr message = { &to, 0, &part, 1 };
	int s = socket(AF_UNIX, IS("stream") ? SOCK_STREAM : SOCK_DGRAM, 0);

	strcpy(to.local.sun_path, argv[2]);
	if (argv[2][0] == '@')
		to.local.sun_path[0] = 0;
	else
		size++;
	message.msg_namelen = size;
	say("attempt\n");
	if (IS("datagram"))
		result(sendto(s, "hello", 5, 0, &to.any, size));
	else if (IS("message"))
		result(sendmsg(s, &message, 0));
	else if (IS("many"))
		result(send_many(s, &to, size) == 2 ? 0 : -1);
	else
		result(connect(s, &to.any, size) ? -1 : send(s, "hello", 5, 0));
	return 0;
}

/* second ALLOWED DENIED: sendmmsg whose first message goes to an allowed unix socket and whose second does not */
static int second_word(int argc, char **argv)
{
	union address to[2] = { { .local.sun_family = AF_UNIX }, { .local.sun_family = AF_UNIX } };
	struct iovec part = { "hello", 5 };
	struct mmsghdr two[2] = { 0 };

	for (int i = 0; i < 2; i++) {
		strcpy(to[i].local.sun_path, argv[1 + i]);
		two[i].msg_hdr = (struct msghdr){ &to[i], sizeof(to[i].local), &part, 1 };
	}
	ATTEMPT(sendmmsg(socket(AF_UNIX, SOCK_DGRAM, 0), two, 2, 0) == 2 ? 2 : -1);
	return 0;
}

/* unixbind PATH: creates a file */
static int unixbind_word(int argc, char **argv)
{
	union address to = { .local.sun_family = AF_UNIX };

	strcpy(to.local.sun_path, argv[1]);
	ATTEMPT(bind(socket(AF_UNIX, SOCK_STREAM, 0), &to.any, sizeof(to.local)));
	return 0;
}

const struct word network_words[] = {
	{ "reach", 3, reach_word },
	{ "elsewhere", 3, elsewhere_word },
	{ "inetbind", 3, bind_word },
	{ "listen", 1, listen_word },
	{ "socket", 3, socket_word },
	{ "unix", 2, unix_word },
	{ "second", 2, second_word },
	{ "unixbind", 1, unixbind_word },
	{ "reconnect", 3, reconnect_word },
	{ "vague6", 2, vague6_word },
	{ "vague", 2, vague_word },
	{ "four", 2, four_word },
	{ "mixed", 3, mixed_word },
	{ "smc", 2, smc_word },
	{ "given", 3, given_word },
	{ "accept", 1, accept_word },
	{ 0 },
};
