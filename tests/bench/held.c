// SPDX-License-Identifier: Apache-2.0
/*
 * The process that the approvals benchmark holds. Reads lines "OPERATION", does it once, and writes the time (ns,
 * CLOCK_MONOTONIC) of its first instruction after the operation: what an answer has to reach.
 *
 * bare      raise(SIGSTOP): resumed by a SIGCONT and nothing else
 * connect   TCP connect to 127.0.0.1:PORT
 * open      open of FILE
 * unlink    unlink of FILE.gone, which is made before
 * exec      fork, and exec of PROGRAM (this program by another name), which writes the time itself
 *
 * held PORT FILE PROGRAM
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void stamp(void)
{
	struct timespec t;
	char line[32];

	clock_gettime(CLOCK_MONOTONIC, &t);
	if (write(1, line, snprintf(line, sizeof(line), "%lld\n", t.tv_sec * 1000000000LL + t.tv_nsec)) < 0)
		exit(1);
}

static void do_connect(int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(0x7f000001) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		perror("connect");
	stamp();
	close(fd);
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc == 2) { /* exec'd */
		stamp();
		return 0;
	}
	if (argc != 4)
		return 2;
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "bare\n")) {
			raise(SIGSTOP);
			stamp();
		} else if (!strcmp(line, "connect\n")) {
			do_connect(atoi(argv[1]));
		} else if (!strcmp(line, "open\n")) {
			int fd = open(argv[2], O_RDONLY);

			stamp();
			close(fd);
		} else if (!strcmp(line, "unlink\n")) {
			char path[4096];

			snprintf(path, sizeof(path), "%s.gone", argv[2]);
			close(open(path, O_WRONLY | O_CREAT, 0600));
			unlink(path);
			stamp();
		} else if (!strcmp(line, "exec\n")) {
			pid_t pid = fork();

			if (!pid) {
				execl(argv[3], argv[3], "now", NULL);
				_exit(1);
			}
			waitpid(pid, NULL, 0);
		}
	}
	return 0;
}
