/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the probes of the containment suite share. They are one program, `probe WORD ARGUMENTS...`, linked statically: it
 * starts fast where everything is slow, and its first effect is its own. What it prints is read by tests/live/probes.py:
 * `attempt`, then `ok N`, `errno N` or, for a child that was killed, `signal N`; what it could read as `data ...`.
 */
#ifndef AGENTD_TEST_PROBE_H
#define AGENTD_TEST_PROBE_H

#include "../../live/probe.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

struct word {
	const char *name;
	int least; /* arguments */
	int (*run)(int argc, char **argv); /* argv[0] is the word */
};

extern const struct word path_words[], exec_words[], file_words[], descriptor_words[], ring_words[], network_words[],
	tag_words[], race_words[], attack_words[], name_words[], storm_words[], swap_words[], other_words[],
	corner_words[], beyond_words[], wire_words[];

/* Reads a little of a descriptor and prints it. */
static inline void show(int fd)
{
	char text[128] = "data ";
	ssize_t n = read(fd, text + 5, 100);

	if (n > 0) {
		text[5 + n] = '\n';
		if (write(1, text, n + 6) < 0)
			_exit(99);
	}
}

/* The attempt that most probes make: open and read. */
static inline int look(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd >= 0) {
		show(fd);
		close(fd);
	}
	return fd;
}

/* Waits for a child and prints what became of it. */
static inline int report(int pid)
{
	char line[32];
	int status;

	if (pid < 0) {
		result(-1);
		return 0;
	}
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status)) {
		snprintf(line, sizeof(line), "signal %d\n", WTERMSIG(status));
		say(line);
	} else if (WEXITSTATUS(status) >= 100) { /* 100 + errno: it failed itself */
		errno = WEXITSTATUS(status) - 100;
		result(-1);
	} else {
		result(WEXITSTATUS(status));
	}
	return 0;
}

static inline void wait_for(const char *path)
{
	while (access(path, F_OK))
		usleep(1000);
}

#endif
