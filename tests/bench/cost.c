// SPDX-License-Identifier: Apache-2.0
/*
 * The operations that the benchmarks time. Reads lines "OPERATION COUNT" and answers each with nanoseconds per operation;
 * so one process, marked or not, serves a whole run and its own start is never part of a figure.
 *
 * call      a system call that agentd never judges (getppid)
 * open      open and close of ARGUMENT, a file
 * connect   connect of a UDP socket to loopback: the hook and the routing, and nothing that waits
 * change    creating, closing and removing a file of its own beside ARGUMENT
 * rename    ARGUMENT to itself, which the kernel judges and leaves alone
 * exec      fork, exec of this program as `cost exit`, exit, wait
 * fork      fork, exit, wait
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char self[4096];

static void die(const char *what)
{
	fprintf(stderr, "cost: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void child(int run)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid) {
		if (run)
			execl(self, self, "exit", (char *)NULL);
		_exit(run);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		die("child");
}

static void once(const char *operation, const char *argument, int sock, const struct sockaddr_in *to)
{
	int fd;

	if (!strcmp(operation, "call")) {
		syscall(SYS_getppid);
	} else if (!strcmp(operation, "open")) {
		fd = open(argument, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || close(fd))
			die(argument);
	} else if (!strcmp(operation, "change")) {
		static char path[4096];
		static long number;

		snprintf(path, sizeof(path), "%s-%ld", argument, number++);
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0 || close(fd) || unlink(path))
			die(path);
	} else if (!strcmp(operation, "rename")) {
		if (rename(argument, argument))
			die("rename");
	} else if (!strcmp(operation, "connect")) {
		if (connect(sock, (const struct sockaddr *)to, sizeof(*to)))
			die("connect");
	} else if (!strcmp(operation, "exec")) {
		child(1);
	} else if (!strcmp(operation, "fork")) {
		child(0);
	} else {
		errno = EINVAL;
		die(operation);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(9),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	char operation[32];
	long count;
	int sock;

	if (argc == 2 && !strcmp(argv[1], "exit"))
		return 0;
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (argc != 2 || sock < 0 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		die("usage: cost FILE");
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%31s %ld", operation, &count) == 2) {
		long long begin = now();

		for (long i = 0; i < count; i++)
			once(operation, argv[1], sock, &to);
		printf("%.1f\n", (double)(now() - begin) / count);
	}
	return 0;
}
