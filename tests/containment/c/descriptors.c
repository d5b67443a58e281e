// SPDX-License-Identifier: Apache-2.0
/* Row 22: descriptors from elsewhere. */
#include "probe.h"

#include <sys/uio.h>

#define IS(text) (!strcmp(how, text))

/* received: a descriptor that comes over the unix socket 3 */
static int received_word(int argc, char **argv)
{
	char control[64], byte;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = 64 };
	int fd;

	say("attempt\n");
	if (recvmsg(atoi(argv[1]), &message, 0) < 0) {
		result(-1);
		return 0;
	}
	if (!CMSG_FIRSTHDR(&message)) {
		errno = EPERM;
		result(-1);
		return 0;
	}
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	result(fd);
	show(fd);
	return 0;
}

/* Uses a descriptor that was open before; what it could read is printed. */
static int use(const char *how, int fd)
{
	char line[128] = "data ", *at;
	int got = -1, ends[2];

	if (IS("read")) {
		got = pread(fd, line + 5, 100, 0);
	} else if (IS("readv")) {
		struct iovec part = { line + 5, 100 };

		got = preadv(fd, &part, 1, 0);
	} else if (IS("map")) {
		at = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
		if (at != MAP_FAILED)
			memcpy(line + 5, at, got = strnlen(at, 100));
	} else if (IS("splice")) {
		loff_t from = 0;

		if (pipe(ends))
			return -1;
		got = splice(fd, &from, ends[1], 0, 100, 0);
		if (got > 0)
			got = read(ends[0], line + 5, 100);
	} else if (IS("duplicate")) {
		got = pread(dup(fd), line + 5, 100, 0);
	} else if (IS("write")) {
		return pwrite(fd, "more", 4, 0);
	} else if (IS("truncate")) {
		return ftruncate(fd, 0);
	} else if (IS("map to write")) {
		at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (at == MAP_FAILED)
			return -1;
		memcpy(at, "more", 4);
		return 0;
	} else if (IS("map, then write")) {
		at = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
		if (at == MAP_FAILED || mprotect(at, 4096, PROT_READ | PROT_WRITE))
			return -1;
		memcpy(at, "more", 4);
		return 0;
	}
	if (got > 0) {
		line[5 + got] = '\n';
		say(line);
	}
	return got;
}

/* inherited HOW FD: a descriptor that was open before the workload began */
static int inherited_word(int argc, char **argv)
{
	ATTEMPT(use(argv[1], atoi(argv[2])));
	return 0;
}

/* before GO HOW PATH: opens PATH at once and says so; uses it once GO is there */
static int before_word(int argc, char **argv)
{
	int fd = open(argv[3], O_RDWR);

	say("open\n");
	wait_for(argv[1]);
	ATTEMPT(use(argv[2], fd));
	return 0;
}

/* taken PID FD: pidfd_getfd */
static int taken_word(int argc, char **argv)
{
	int pidfd = syscall(434, atoi(argv[1]), 0), fd;

	say("attempt\n");
	fd = syscall(438, pidfd, atoi(argv[2]), 0);
	result(fd);
	lseek(fd, 0, SEEK_SET);
	show(fd);
	return 0;
}

const struct word descriptor_words[] = {
	{ "received", 1, received_word },
	{ "inherited", 2, inherited_word },
	{ "taken", 2, taken_word },
	{ "before", 3, before_word },
	{ 0 },
};
