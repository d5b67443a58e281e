// SPDX-License-Identifier: Apache-2.0
/* What a call does beyond its own process and its own files, where no name of what it does it to is told to a hook. */
#include "probe.h"

#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/io.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>

/* A call of the 32-bit table. */
static long old_call(long number, const long *a)
{
	int value;
	long bp = a[5];

	__asm__ volatile("push %%rbp\n\tmov %[bp], %%rbp\n\tint $0x80\n\tpop %%rbp"
			 : "=a"(value)
			 : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4]), [bp] "r"(bp)
			 : "memory", "r8", "r9", "r10", "r11");
	if (value < 0 && value > -4096) {
		errno = -value;
		return -1;
	}
	return value;
}

/* grouped FOLDER: a child that begins in that cgroup */
static int grouped_word(int argc, char **argv)
{
	struct clone_args a = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = open(argv[1], O_PATH) };
	int pid;

	say("attempt\n");
	pid = syscall(SYS_clone3, &a, sizeof(a));
	if (!pid)
		_exit(0);
	return report(pid);
}

/*
 * upcall [WIDTH]: asks for a key that is not there: the kernel runs /sbin/request-key, outside the workload, and says then that
 * there is none (or no such program)
 */
static int upcall_word(int argc, char **argv)
{
	char *text = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	const long a[6] = { (long)text, (long)text + 8, (long)text, -2 /* the process's */ };
	long key;

	strcpy(text, "user");
	snprintf(text + 8, 64, "agentd:%d:%ld", getpid(), (long)time(0));
	say("attempt\n");
	key = argc > 1 ? old_call(287, a) : syscall(SYS_request_key, a[0], a[1], a[2], a[3]);
	result(key >= 0 || errno == ENOKEY || errno == ENOENT ? 0 : -1);
	return 0;
}

/* Has this kernel refused it to everybody? */
static int locked(void)
{
	char text[100] = { 0 };
	FILE *file = fopen("/sys/kernel/security/lockdown", "r");

	return file && fgets(text, sizeof(text), file) && !strstr(text, "[none]");
}

/* ports HOW: writes to the machine's devices, by iopl() or ioperm() */
static int ports_word(int argc, char **argv)
{
	int failed;

	if (locked()) /* no attempt */
		return 0;
	say("attempt\n");
	failed = !strcmp(argv[1], "iopl") ? iopl(3) : ioperm(0x80, 1, 1);
	if (!failed)
		outb(0, 0x80);
	result(failed);
	return 0;
}

/* hangup: takes its terminal from all who have it */
static int hangup_word(int argc, char **argv)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);

	grantpt(master), unlockpt(master), setsid();
	signal(SIGHUP, SIG_IGN);
	if (open(ptsname(master), O_RDWR) < 0)
		return 1;
	ATTEMPT(syscall(SYS_vhangup));
	return 0;
}

/* seize PATH [ARGUMENT]: makes another session's terminal its own */
static int seize_word(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR | O_NOCTTY);

	if (fd < 0)
		return 1;
	setsid();
	ATTEMPT(ioctl(fd, TIOCSCTTY, argc > 2 ? strtoul(argv[2], 0, 0) : 1));
	return 0;
}

/* console: what is written to the console comes to it */
static int console_word(int argc, char **argv)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), fd, failed;

	grantpt(master), unlockpt(master);
	fd = open(ptsname(master), O_RDWR | O_NOCTTY);
	say("attempt\n");
	failed = ioctl(fd, TIOCCONS, 0);
	if (failed && errno == EBUSY) /* somebody else has it */
		failed = 0;
	result(failed);
	return 0;
}

/* advise PID: has memory of another process written out */
static int advise_word(int argc, char **argv)
{
	char name[64];
	struct iovec part = { 0, 4096 };
	int fd;
	FILE *maps;

	snprintf(name, sizeof(name), "/proc/%s/maps", argv[1]);
	maps = fopen(name, "r");
	if (!maps || fscanf(maps, "%lx", (unsigned long *)&part.iov_base) != 1)
		return 1;
	fd = syscall(SYS_pidfd_open, atoi(argv[1]), 0);
	ATTEMPT(syscall(440 /* process_madvise */, fd, &part, 1, 21 /* MADV_PAGEOUT */, 0));
	return 0;
}

/* soften: has a page of memory called broken */
static int soften_word(int argc, char **argv)
{
	char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	int failed = madvise(page, 4096, 101 /* MADV_SOFT_OFFLINE */);

	if (failed && errno == EINVAL) /* not in this kernel: no attempt */
		return 0;
	say("attempt\n");
	result(failed);
	return 0;
}

/* request PATH NUMBER [WORDS]: an ioctl of a file that is open to read, on zeros or these words of four bytes */
static int request_word(int argc, char **argv)
{
	static unsigned char data[8192];
	int fd = open(argv[1], O_RDONLY), value;

	for (int i = 3; i < argc; i++)
		((unsigned int *)data)[i - 3] = strtoul(argv[i], 0, 0);
	if (fd < 0)
		return 1;
	say("attempt\n");
	value = ioctl(fd, strtoul(argv[2], 0, 0), data);
	result(value);
	return 0;
}

static void find(const char *data, size_t size)
{
	const char *at = memmem(data, size, "secret: ", 8);
	char line[40];

	if (at) {
		snprintf(line, sizeof(line), "data %.19s\n", at);
		say(line);
	}
}

/* tree PATH: looks for a secret in the trees of a btrfs, by a file of it */
static int tree_word(int argc, char **argv)
{
	static char buffer[1 << 20];
	struct btrfs_ioctl_search_args_v2 *s = (void *)buffer;
	int fd = open(argv[1], O_RDONLY), failed;

	s->key = (struct btrfs_ioctl_search_key){
		.tree_id = 5,
		.max_objectid = -1ull,
		.max_offset = -1ull,
		.max_transid = -1ull,
		.min_type = BTRFS_EXTENT_DATA_KEY,
		.max_type = BTRFS_EXTENT_DATA_KEY,
		.nr_items = 4096,
	};
	s->buf_size = sizeof(buffer) - sizeof(*s);
	say("attempt\n");
	failed = ioctl(fd, BTRFS_IOC_TREE_SEARCH_V2, s);
	find((char *)s->buf, s->buf_size);
	result(failed);
	return 0;
}

/* sent PATH: has a subvolume that can't be written to sent to it, and looks there */
static int sent_word(int argc, char **argv)
{
	static char buffer[1 << 20];
	struct btrfs_ioctl_send_args a = { 0 };
	int fd = open(argv[1], O_RDONLY), pair[2], failed;

	if (fd < 0 || pipe(pair))
		return 1;
	fcntl(pair[1], F_SETPIPE_SZ, 1 << 20);
	a.send_fd = pair[1];
	say("attempt\n");
	failed = ioctl(fd, BTRFS_IOC_SEND, &a);
	close(pair[1]);
	find(buffer, read(pair[0], buffer, sizeof(buffer)));
	result(failed);
	return 0;
}

/*
 * called WIDTH NUMBER ARGUMENTS...: a call of the 64- or 32-bit table. An argument is a number, @text, ^file (opened to read), =pid (by a
 * pidfd), or %words, of four bytes, + stands for the address of the memory behind them
 */
static int called_word(int argc, char **argv)
{
	long a[6] = { 0 }, number = strtol(argv[2], 0, 0);
	char *at = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	for (int i = 0; i < 6 && i + 3 < argc; i++) {
		char *text = argv[i + 3];

		if (*text == '@') {
			a[i] = (long)strcpy(at, text + 1);
		} else if (*text == '^') {
			a[i] = open(text + 1, O_RDONLY);
		} else if (*text == '=') {
			a[i] = syscall(SYS_pidfd_open, atoi(text + 1), 0);
		} else if (*text == '%') {
			unsigned int *word = (void *)at;

			a[i] = (long)at;
			for (text++; *text; text += *text == ',')
				if (*text == '+')
					*word++ = (long)at + 2048, text++;
				else
					*word++ = strtoul(text, &text, 0);
		} else {
			a[i] = strtol(text, 0, 0);
		}
		at += 4096;
	}
	say("attempt\n");
	if (atoi(argv[1]) == 32)
		result(old_call(number, a));
	else
		result(syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]));
	return 0;
}

const struct word beyond_words[] = {
	{ "grouped", 1, grouped_word },
	{ "upcall", 0, upcall_word },
	{ "ports", 1, ports_word },
	{ "hangup", 0, hangup_word },
	{ "seize", 1, seize_word },
	{ "console", 0, console_word },
	{ "advise", 1, advise_word },
	{ "soften", 0, soften_word },
	{ "request", 2, request_word },
	{ "tree", 1, tree_word },
	{ "sent", 1, sent_word },
	{ "called", 2, called_word },
	{ 0 },
};
