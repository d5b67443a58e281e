// SPDX-License-Identifier: Apache-2.0
/* fresh FOLDER COUNT PROGRAM COPIES: makes FOLDER and fills it with what ops.c is to meet for the first time. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "deep.h"

static void check(int failed, const char *what)
{
	if (!failed)
		return;
	fprintf(stderr, "fresh: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Makes the file whose name is `begin` and the number: a copy of `from`, or empty. */
static void make(const char *begin, int number, const char *from)
{
	static char block[65536];
	char name[64];
	ssize_t size;
	int in, out;

	snprintf(name, sizeof(name), "%s%d", begin, number);
	out = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	check(out < 0, name);
	if (from) {
		in = open(from, O_RDONLY | O_CLOEXEC);
		check(in < 0, from);
		while ((size = read(in, block, sizeof(block))) > 0)
			check(write(out, block, size) != size, name);
		close(in);
	}
	check(close(out), name);
}

int main(int argc, char **argv)
{
	char deep[] = DEEP "/", name[64];

	if (argc != 5) {
		fprintf(stderr, "usage: fresh FOLDER COUNT PROGRAM COPIES\n");
		return 2;
	}
	check(mkdir(argv[1], 0755) || chdir(argv[1]), argv[1]);
	for (char *end = deep; *end; end++) {
		if (*end != '/')
			continue;
		*end = 0;
		check(mkdir(deep, 0755), deep);
		*end = '/';
	}
	for (int number = 0; number <= atoi(argv[2]); number++) {
		make("file", number, NULL);
		make(DEEP "/file", number, NULL);
		snprintf(name, sizeof(name), "folder%d", number);
		check(mkdir(name, 0755), name);
	}
	for (int number = 0; number <= atoi(argv[4]); number++)
		make("program", number, argv[3]);
	return 0;
}
