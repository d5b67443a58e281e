// SPDX-License-Identifier: Apache-2.0
/* Corners of the kernel's interface: calls that few programs make. */
#include "probe.h"

#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>

#define IS(text) (!strcmp(how, text))
#define EMPTY_MOUNTS (1ul << 37) /* CLONE_EMPTY_MNTNS of clone3, Linux 7.1 */
#define UNSHARE_EMPTY_MOUNTS 0x100000 /* of unshare */
#define TREE_NAMESPACE 2 /* OPEN_TREE_NAMESPACE, Linux 7.0 */

/* emptied HOW: a mount namespace, asked for in new ways */
static int emptied_word(int argc, char **argv)
{
	struct clone_args a = { .flags = EMPTY_MOUNTS, .exit_signal = SIGCHLD };
	const char *how = argv[1];
	long value;

	if (IS("unshare"))
		value = unshare(UNSHARE_EMPTY_MOUNTS);
	else if (IS("open_tree"))
		value = syscall(428, AT_FDCWD, "/", TREE_NAMESPACE | O_CLOEXEC);
	else
		value = syscall(SYS_clone3, &a, sizeof(a));
	if (IS("clone3") && !value)
		_exit(0);
	if (value < 0 && errno == EINVAL) /* not in this kernel: no attempt */
		return 0;
	say("attempt\n");
	result(value);
	return 0;
}

/* watch PATH: is told what is opened there, and by which name (inotify) */
static int watch_word(int argc, char **argv)
{
	ATTEMPT(inotify_add_watch(inotify_init1(IN_CLOEXEC), argv[1], IN_ALL_EVENTS));
	return 0;
}

/* freeze PATH: stops the file system that it is on, and lets it go */
static int freeze_word(int argc, char **argv)
{
	int fd = open(argv[1], O_RDONLY), failed;

	failed = ioctl(fd, FIFREEZE, 0);
	if (!failed)
		ioctl(fd, FITHAW, 0);
	if (failed && errno == EOPNOTSUPP) /* there is none that can be: no attempt */
		return 0;
	say("attempt\n");
	result(failed);
	return 0;
}

/* node PATH MAJOR MINOR: makes a character device there and opens it */
static int node_word(int argc, char **argv)
{
	int fd;

	fd = mknod(argv[1], S_IFCHR | 0600, makedev(atoi(argv[2]), atoi(argv[3])));
	if (!fd)
		fd = open(argv[1], O_RDONLY);
	if (fd < 0 && errno == EACCES) /* mounted so that devices are none: no attempt */
		return 0;
	say("attempt\n");
	result(fd);
	return 0;
}

/* queue NAME FLAGS: opens a message queue that is there */
static int queue_word(int argc, char **argv)
{
	ATTEMPT(syscall(SYS_mq_open, argv[1], (int)strtol(argv[2], 0, 0), 0, 0));
	return 0;
}

/* pinned PATH: takes what is pinned there */
static int pinned_word(int argc, char **argv)
{
	union bpf_attr attr = { 0 };

	attr.pathname = (unsigned long)argv[1];
	ATTEMPT(syscall(SYS_bpf, BPF_OBJ_GET, &attr, sizeof(attr)));
	return 0;
}

/* module MARK: needs one that the kernel then asks for, a protocol of netlink that nobody has; was MARK made by who loads it? */
static int module_word(int argc, char **argv)
{
	if (access("/proc/sys/kernel/modprobe", F_OK)) /* a kernel without modules: no attempt */
		return 0;
	say("attempt\n");
	if (socket(16 /* AF_NETLINK */, SOCK_RAW, 27) >= 0)
		return 1;
	result(access(argv[1], F_OK));
	return 0;
}

struct disguise {
	struct prctl_mm_map map;
	unsigned long from[8], to[8]; /* what shows the program's file */
	int fd;
	long how;
};

static inline long call(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long value;

	__asm__ volatile("syscall"
			 : "=a"(value)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return value;
}

/* Runs in a copy, when nothing of the program's file is mapped any more. */
static void __attribute__((section(".disguise"), noinline, used, optimize("no-tree-loop-distribute-patterns")))
disguised(struct disguise *d)
{
	char text[8] = "ok 0\n";
	long failed;

	for (int i = 0; i < 8 && d->to[i]; i++)
		call(SYS_munmap, d->from[i], d->to[i] - d->from[i], 0, 0, 0);
	d->map.exe_fd = d->fd;
	failed = call(SYS_prctl, PR_SET_MM, d->how, (long)&d->map, sizeof(d->map), 0);
	if (failed) {
		text[0] = 'e', text[1] = 'r', text[2] = 'r', text[3] = '\n';
		call(SYS_write, 1, (long)text, 4, 0, 0);
	} else {
		call(SYS_write, 1, (long)text, 5, 0, 0);
	}
	call(SYS_exit_group, 0, 0, 0, 0, 0);
}
extern char __start_disguise[] __attribute__((weak)), __stop_disguise[] __attribute__((weak));

/* disguise PATH [HIGH]: is that program from now on, for whoever asks the kernel */
static int disguise_word(int argc, char **argv)
{
	char *copy = mmap(0, 1 << 16, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct disguise *d = (void *)(copy + 8192);
	FILE *maps = fopen("/proc/self/maps", "r"), *stat = fopen("/proc/self/stat", "r");
	char line[600], self[300] = { 0 };
	unsigned long field[60] = { 0 };
	int n = 0;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 || !fgets(line, sizeof(line), stat))
		return 1;
	char *at = strrchr(line, ')') + 2;
	for (int i = 3; i < 53 && at; i++) {
		field[i] = strtoul(at, &at, 10);
		if (i == 3)
			at = strchr(at, ' ');
	}
	while (fgets(line, sizeof(line), maps) && n < 8)
		if (strstr(line, self))
			sscanf(line, "%lx-%lx", &d->from[n], &d->to[n]), n++;
	memcpy(copy, (void *)disguised, 4096);
	d->fd = open(argv[1], O_RDONLY);
	d->how = PR_SET_MM_MAP | (argc > 2 ? 1l << 32 : 0);
	d->map = (struct prctl_mm_map){
		.start_code = (long)copy,
		.end_code = (long)copy + 4096,
		.start_data = (long)copy + 8192,
		.end_data = (long)copy + 12288,
		.start_brk = (long)sbrk(0),
		.brk = (long)sbrk(0),
		.start_stack = field[28],
		.arg_start = field[48],
		.arg_end = field[49],
		.env_start = field[50],
		.env_end = field[51],
		.auxv = 0,
		.auxv_size = 0,
		.exe_fd = d->fd,
	};
	say("attempt\n");
	((void (*)(struct disguise *))copy)(d);
	return 0;
}

const struct word corner_words[] = {
	{ "emptied", 1, emptied_word },	  { "watch", 1, watch_word },	{ "freeze", 1, freeze_word },
	{ "node", 3, node_word },	  { "queue", 2, queue_word },	{ "pinned", 1, pinned_word },
	{ "disguise", 1, disguise_word }, { "module", 1, module_word }, { 0 },
};
