// SPDX-License-Identifier: Apache-2.0
/* Rows 60 to 66: a workload against agentd. */
#include "probe.h"

#include <linux/bpf.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>

static int signal_word(int argc, char **argv)
{
	ATTEMPT(kill(atoi(argv[1]), atoi(argv[2])));
	return 0;
}

static int ptrace_word(int argc, char **argv)
{
	ATTEMPT(ptrace(PTRACE_SEIZE, atoi(argv[1]), 0, 0));
	return 0;
}

/* poke PID ADDRESS: writes a byte of another process's memory */
static int poke_word(int argc, char **argv)
{
	char byte = 'x';
	struct iovec mine = { &byte, 1 }, theirs = { (void *)strtoul(argv[2], 0, 0), 1 };

	ATTEMPT(process_vm_writev(atoi(argv[1]), &mine, 1, &theirs, 1, 0));
	return 0;
}

/* dump FOLDER: a process that crashes there, and wants its memory written to a file */
static int dump_word(int argc, char **argv)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	int status = 0, pid;

	say("attempt\n");
	pid = fork();
	if (!pid) {
		if (!chdir(argv[1]) && !setrlimit(RLIMIT_CORE, &all))
			abort();
		_exit(99);
	}
	waitpid(pid, &status, 0);
	errno = EPERM;
	result(WIFSIGNALED(status) && WCOREDUMP(status) ? 0 : -1);
	return 0;
}

/* limit PID: changes a limit that matters to nobody */
static int limit_word(int argc, char **argv)
{
	struct rlimit limit;

	getrlimit(RLIMIT_LOCKS, &limit); /* inherited from it, or the same */
	limit.rlim_cur = 12345;
	ATTEMPT(prlimit(atoi(argv[1]), RLIMIT_LOCKS, &limit, 0));
	return 0;
}

/* bpf next|take: walks the programs of the host, or takes the first by its id */
static int bpf_word(int argc, char **argv)
{
	union bpf_attr attr = { 0 };
	long value;

	say("attempt\n");
	value = syscall(SYS_bpf, BPF_LINK_GET_NEXT_ID, &attr, sizeof(attr));
	if (!value && !strcmp(argv[1], "take")) {
		attr.link_id = attr.next_id;
		attr.next_id = 0;
		value = syscall(SYS_bpf, BPF_LINK_GET_FD_BY_ID, &attr, sizeof(attr));
	}
	result(value);
	return 0;
}

/* number PATH: writes a number there */
static int number_word(int argc, char **argv)
{
	int fd;

	say("attempt\n");
	fd = open(argv[1], O_WRONLY);
	result(fd < 0 || write(fd, argv[2], strlen(argv[2])) < 0 ? -1 : fd);
	return 0;
}

static int rmdir_word(int argc, char **argv)
{
	ATTEMPT(rmdir(argv[1]));
	return 0;
}

static int umount_word(int argc, char **argv)
{
	ATTEMPT(umount2(argv[1], MNT_DETACH));
	return 0;
}

/* type TERMINAL TEXT: input typed on a terminal (TIOCSTI) */
static int type_word(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR | O_NOCTTY), failed = 0;

	say("attempt\n");
	for (const char *c = argv[2]; *c && !failed; c++)
		failed = syscall(SYS_ioctl, fd, 0x5412, c);
	result(failed);
	return 0;
}

static int dials(const char *port)
{
	struct sockaddr_in to = { AF_INET, htons(atoi(port)), { htonl(INADDR_LOOPBACK) } };
	int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK,
		       0); /* nobody may be there to accept: it has gone out then */
	int failed = connect(s, (void *)&to, sizeof(to)) && errno != EINPROGRESS;

	close(s);
	return failed;
}

/* flood N PORT PATH: N connections that are refused, then a read that is denied */
static int flood_word(int argc, char **argv)
{
	char line[64];
	long through = 0;

	say("attempt\n");
	for (long i = atol(argv[1]); i > 0; i--)
		through += !dials(argv[2]);
	snprintf(line, sizeof(line), "through %ld\n", through);
	say(line);
	result(look(argv[3]));
	return 0;
}

/* dialers N PORT: N processes that connect at once; how many got through */
static int dialers_word(int argc, char **argv)
{
	int number = atoi(argv[1]), status, good = 0;

	say("attempt\n");
	for (int i = 0; i < number; i++)
		if (!fork())
			_exit(dials(argv[2]) ? 1 : 0);
	while (wait(&status) > 0)
		good += !status;
	result(good);
	return 0;
}

/* files N DIRECTORY PATH: N files, each opened; then a read that is denied */
static int files_word(int argc, char **argv)
{
	char path[500];

	say("attempt\n");
	for (long i = atol(argv[1]); i > 0; i--) {
		snprintf(path, sizeof(path), "%s/%ld", argv[2], i);
		close(open(path, O_WRONLY | O_CREAT, 0644));
		unlink(path);
	}
	result(look(argv[3]));
	return 0;
}

/* hammer STOP PORT PATH PROGRAM MARK [FREE]: tries what is denied until STOP is there; says how often, and how often it got through */
static int hammer_word(int argc, char **argv)
{
	char line[100], text[100];
	long *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long rounds = 0;

	say("attempt\n");
	for (; access(argv[1], F_OK); rounds++) {
		usleep(2000); /* what it does ends in the log */
		shared[0] += !dials(argv[2]);
		if (!fork()) {
			int fd = open(argv[3], O_RDONLY);

			if (fd >= 0 && read(fd, text, 99) > 0)
				shared[1]++;
			_exit(0);
		}
		wait(0);
		if (!fork()) {
			execl(argv[4], "x", argv[5], NULL);
			_exit(1);
		}
		wait(0);
		shared[2] += !access(argv[5], F_OK);
	}
	snprintf(line, sizeof(line), "done %ld 0\nescaped %ld\n", rounds, shared[0] + shared[1] + shared[2]);
	say(line);
	return 0;
}

const struct word attack_words[] = {
	{ "signal", 2, signal_word }, { "ptrace", 1, ptrace_word },   { "poke", 2, poke_word },
	{ "limit", 1, limit_word },   { "bpf", 1, bpf_word },	      { "rmdir", 1, rmdir_word },
	{ "number", 2, number_word }, { "umount", 1, umount_word },   { "type", 2, type_word },
	{ "flood", 3, flood_word },   { "dialers", 2, dialers_word }, { "files", 3, files_word },
	{ "hammer", 5, hammer_word }, { "dump", 1, dump_word },	      { 0 },
};
