/* SPDX-License-Identifier: Apache-2.0 */
/* What every probe in C begins with; probes.py says what it prints. ATTEMPT(expression): -1 is failure. */
#ifndef AGENTD_TEST_LIVE_PROBE_H
#define AGENTD_TEST_LIVE_PROBE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
static inline void say(const char *text)
{
	if (write(1, text, strlen(text)) < 0)
		_exit(99);
}
static inline void result(long value)
{
	char line[64];

	if (value == -1)
		snprintf(line, sizeof(line), "errno %d\n", errno);
	else
		snprintf(line, sizeof(line), "ok %ld\n", value);
	say(line);
}
#define ATTEMPT(call)             \
	do {                      \
		say("attempt\n"); \
		result(call);     \
	} while (0)

#endif
