// SPDX-License-Identifier: Apache-2.0
/* Rows 10 to 16: ways to run a program. */
#include "probe.h"

#include <sys/personality.h>

#include <sys/sendfile.h>

#define STACK (64 << 10)

static char **arguments;

/* spawn HOW PATH ARGV0 ARGUMENTS... */
static int spawn_word(int argc, char **argv)
{
	char *none[] = { 0 }, *how = argv[1], *path = argv[2];
	int pid;

	argv += 3;
	say("attempt\n");
	if (!strcmp(how, "vfork")) {
		pid = vfork();
		if (!pid) {
			execv(path, argv);
			_exit(100 + errno);
		}
	} else if (!strcmp(how, "posix_spawn")) {
		errno = posix_spawn(&pid, path, 0, 0, argv, none);
		if (errno)
			pid = -1;
	} else if (!strcmp(how, "clone")) {
		pid = syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
		if (!pid) {
			execv(path, argv);
			_exit(100 + errno);
		}
	} else {
		pid = fork();
		if (!pid) {
			if (!strcmp(how, "nobody") && (setgid(65534) || setuid(65534)))
				_exit(98);
			execv(path, argv);
			_exit(100 + errno);
		}
	}
	return report(pid);
}

static void *thread_run(void *unused)
{
	execv(arguments[0], arguments + 1);
	return 0;
}

/* thread PATH ARGV0 ARGUMENTS...: from a thread that doesn't lead */
static int thread_word(int argc, char **argv)
{
	pthread_t thread;
	int pid;

	arguments = argv + 1;
	say("attempt\n");
	pid = fork();
	if (!pid) {
		pthread_create(&thread, 0, thread_run, 0);
		pthread_join(thread, 0);
		_exit(100 + errno);
	}
	return report(pid);
}

static int copied(int to, const char *path)
{
	int from = open(path, O_RDONLY);

	if (from < 0)
		return -1;
	while (sendfile(to, from, 0, 1 << 30) > 0)
		;
	close(from);
	return 0;
}

static int exec_fd(int fd, char **argv)
{
	int pid = fork();
	char *none[] = { 0 };

	if (!pid) {
		syscall(322, fd, "", argv, none, AT_EMPTY_PATH);
		_exit(100 + errno);
	}
	return report(pid);
}

/* memory PROGRAM ARGV0 ARGUMENTS...: a copy in a memfd */
static int memory_word(int argc, char **argv)
{
	int fd = memfd_create("helper", 0);

	if (copied(fd, argv[1]))
		return 1;
	say("attempt\n");
	return exec_fd(fd, argv + 2);
}

/* tmpfile DIRECTORY PROGRAM ARGV0 ARGUMENTS...: a copy in a file without a name */
static int tmpfile_word(int argc, char **argv)
{
	int fd = open(argv[1], O_TMPFILE | O_RDWR, 0755), again;
	char link[64];

	if (fd < 0 || copied(fd, argv[2]))
		return 1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	again = open(link, O_RDONLY);
	close(fd);
	say("attempt\n");
	return exec_fd(again, argv + 3);
}

/* deleted PATH ARGV0 ARGUMENTS...: its name is gone when it is run */
static int deleted_word(int argc, char **argv)
{
	int fd = open(argv[1], O_PATH);

	if (unlink(argv[1]))
		return 1;
	say("attempt\n");
	return exec_fd(fd, argv + 2);
}

/* descriptor PATH ARGV0 ARGUMENTS... */
static int descriptor_word(int argc, char **argv)
{
	int fd = open(argv[1], O_PATH);

	say("attempt\n");
	return exec_fd(fd, argv + 2);
}

/* steal HOW SOURCE TARGET ARGV0 ARGUMENTS...: brings a denied program to an allowed place; then, in another child, runs it */
static int steal_word(int argc, char **argv)
{
	int pid = fork();

	if (!pid) {
		if (!strcmp(argv[1], "rename"))
			_exit(rename(argv[2], argv[3]) ? 1 : 0);
		if (!strcmp(argv[1], "link"))
			_exit(link(argv[2], argv[3]) ? 1 : 0);
		_exit(copied(open(argv[3], O_CREAT | O_WRONLY, 0755), argv[2]) ? 1 : 0);
	}
	say("attempt\n");
	waitpid(pid, 0, 0);
	pid = fork();
	if (!pid) {
		execv(argv[3], argv + 4);
		_exit(100 + errno);
	}
	return report(pid);
}

/* lazy FILE PATH ARGV0 MARK: an argument in a page of a file that nobody has touched yet */
static int lazy_word(int argc, char **argv)
{
	int fd = open(argv[1], O_RDONLY), pid;
	char *page = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	char *words[] = { argv[3], page, argv[4], 0 };

	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	say("attempt\n");
	pid = fork();
	if (!pid) {
		execv(argv[2], words);
		_exit(100 + errno);
	}
	return report(pid);
}

static const unsigned char answer[] = { 0xb8, 0x2a, 0, 0, 0, 0xc3 }; /* mov $42, %eax; ret */

/* codeheap: machine code in memory that brk() makes executable, because that is what the program's personality is */
static int codeheap_word(int argc, char **argv)
{
	void *memory;

	personality(READ_IMPLIES_EXEC);
	memory = sbrk(8192);
	memcpy(memory, answer, sizeof(answer));
	ATTEMPT(((int (*)(void))memory)());
	return 0;
}

/* code: writes machine code to memory, makes it executable and runs it */
static int code_word(int argc, char **argv)
{
	void *memory = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(memory, answer, sizeof(answer));
	say("attempt\n");
	result(mprotect(memory, 4096, PROT_READ | PROT_EXEC) ? -1 : ((int (*)(void))memory)());
	return 0;
}

/* codewide: into memory that is executable and writable at once */
static int codewide_word(int argc, char **argv)
{
	void *memory;

	say("attempt\n");
	memory = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory != MAP_FAILED)
		memcpy(memory, answer, sizeof(answer));
	result(memory == MAP_FAILED ? -1 : ((int (*)(void))memory)());
	return 0;
}

/* codecopy FILE: into a private copy of a file's memory, which is made executable then */
static int codecopy_word(int argc, char **argv)
{
	void *memory = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, open(argv[1], O_RDONLY), 0);

	if (memory == MAP_FAILED)
		return 1;
	memcpy(memory, answer, sizeof(answer));
	say("attempt\n");
	result(mprotect(memory, 4096, PROT_READ | PROT_EXEC) ? -1 : ((int (*)(void))memory)());
	return 0;
}

/* codefile FILE: the same from a file that the workload writes; mmap with PROT_EXEC is the attempt */
static int codefile_word(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR | O_CREAT, 0755);
	void *memory;

	if (write(fd, answer, sizeof(answer)) < 0 || ftruncate(fd, 4096))
		return 1;
	say("attempt\n");
	memory = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	result(memory == MAP_FAILED ? -1 : ((int (*)(void))memory)());
	return 0;
}

const struct word exec_words[] = {
	{ "spawn", 3, spawn_word },	  { "thread", 2, thread_word },
	{ "memory", 2, memory_word },	  { "tmpfile", 3, tmpfile_word },
	{ "deleted", 2, deleted_word },	  { "descriptor", 2, descriptor_word },
	{ "steal", 4, steal_word },	  { "lazy", 4, lazy_word },
	{ "code", 0, code_word },	  { "codeheap", 0, codeheap_word },
	{ "codefile", 1, codefile_word }, { "codewide", 0, codewide_word },
	{ "codecopy", 1, codecopy_word }, { 0 },
};
