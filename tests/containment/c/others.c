// SPDX-License-Identifier: Apache-2.0
/* Rows 60 and 62: what a process does to another one without kill(2) and ptrace(2). */
#include "probe.h"

#include <sys/ioctl.h>
#include <sys/resource.h>

#define IS(text) (!strcmp(how, text))

/* Who gets the signal of a descriptor on which something can be read: fcntl(2), ioctl(2). */
static int owned(const char *how, int fd, int pid)
{
	struct f_owner_ex owner = { F_OWNER_PID, pid };

	if (IS("F_SETOWN"))
		return fcntl(fd, F_SETOWN, pid);
	if (IS("F_SETOWN, a group"))
		return fcntl(fd, F_SETOWN, -getpgid(pid));
	if (IS("F_SETOWN_EX"))
		return fcntl(fd, F_SETOWN_EX, &owner);
	return ioctl(fd, IS("FIOSETOWN") ? FIOSETOWN : SIOCSPGRP, &pid);
}

/* owner HOW PID SIGNAL: the kernel sends it, because there is something to read */
static int owner_word(int argc, char **argv)
{
	int pair[2], failed, pid = atoi(argv[2]);

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || fcntl(pair[0], F_SETSIG, atoi(argv[3])) ||
	    fcntl(pair[0], F_SETFL, O_ASYNC | O_NONBLOCK))
		return 1;
	say("attempt\n");
	failed = owned(argv[1], pair[0], pid ? pid : getpid());
	if (!failed && write(pair[1], "x", 1) != 1)
		failed = -1;
	result(failed);
	return 0;
}

static long eased(const char *how, int pid)
{
	struct sched_param none = { 0 };
	unsigned long node = 1;
	cpu_set_t one;

	if (IS("ioprio_set"))
		return syscall(SYS_ioprio_set, 1, pid, 3 << 13);
	if (IS("setpriority"))
		return setpriority(PRIO_PROCESS, pid, 1);
	if (IS("sched_setscheduler"))
		return sched_setscheduler(pid, SCHED_IDLE, &none);
	if (IS("sched_setaffinity")) {
		CPU_ZERO(&one);
		CPU_SET(0, &one);
		return sched_setaffinity(pid, sizeof(one), &one);
	}
	if (IS("migrate_pages"))
		return syscall(SYS_migrate_pages, pid, 2, &node, &node);
	errno = ENOSYS;
	return -1;
}

/* ease HOW PID: takes time, or its place, from another process */
static int ease_word(int argc, char **argv)
{
	ATTEMPT(eased(argv[1], atoi(argv[2])));
	return 0;
}

/* pour PATH TEXT: into something that another process reads; pour PATH: out of it */
static int pour_word(int argc, char **argv)
{
	int fd, through;
	char link[32];

	say("attempt\n");
	through = argc > 3 ? open(argv[1], O_PATH) : -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", through);
	fd = open(through < 0 ? argv[1] : link, argc > 2 ? O_WRONLY : O_RDONLY);
	if (fd >= 0 && argc == 2)
		show(fd);
	result(fd < 0 || (argc > 2 && write(fd, argv[2], strlen(argv[2])) < 0) ? -1 : fd);
	return 0;
}

/* own: opens a pipe of its own by its name in /proc */
static int own_word(int argc, char **argv)
{
	char link[32];
	int pair[2];

	if (pipe(pair))
		return 1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", pair[1]);
	ATTEMPT(open(link, O_WRONLY));
	return 0;
}

const struct word other_words[] = {
	{ "owner", 3, owner_word }, { "ease", 2, ease_word }, { "pour", 1, pour_word }, { "own", 0, own_word }, { 0 },
};
