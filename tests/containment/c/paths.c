// SPDX-License-Identifier: Apache-2.0
/* Rows 1 to 8: the many names of one file. */
#include "probe.h"

#include <sys/mount.h>
#include <sys/prctl.h>

static int read_word(int argc, char **argv)
{
	ATTEMPT(look(argv[1]));
	return 0;
}

/* readin FOLDER NAME: where there is such a folder */
static int readin_word(int argc, char **argv)
{
	char path[4096];

	if (access(argv[1], F_OK))
		return 0;
	snprintf(path, sizeof(path), "%s/%s", argv[1], argv[2]);
	ATTEMPT(look(path));
	return 0;
}

static int remove_word(int argc, char **argv)
{
	ATTEMPT(unlink(argv[1]));
	return 0;
}

/* readfrom DIRECTORY NAME: relative, after chdir */
static int readfrom_word(int argc, char **argv)
{
	if (chdir(argv[1]))
		return 1;
	ATTEMPT(look(argv[2]));
	return 0;
}

/* readat DIRECTORY NAME: relative to a descriptor */
static int readat_word(int argc, char **argv)
{
	int dir = open(argv[1], O_PATH), fd;

	say("attempt\n");
	fd = openat(dir, argv[2], O_RDONLY);
	result(fd);
	show(fd);
	return 0;
}

/* proc KIND DIRECTORY REST: through /proc/self/KIND, with DIRECTORY as the working directory and as descriptor 9 */
static int proc_word(int argc, char **argv)
{
	char path[5000];

	if (chdir(argv[2]))
		return 1;
	dup2(open(argv[2], O_PATH), 9);
	if (!strcmp(argv[1], "parent")) /* another process of the workload */
		snprintf(path, sizeof(path), "/proc/%d/cwd/%s", getppid(), argv[3]);
	else if (!strcmp(argv[1], "task"))
		snprintf(path, sizeof(path), "/proc/thread-self/root%s/%s", argv[2], argv[3]);
	else
		snprintf(path, sizeof(path), "/proc/self/%s/%s", argv[1], argv[3]);
	if (!strcmp(argv[1], "parent")) {
		int pid = fork();

		if (!pid) {
			snprintf(path, sizeof(path), "/proc/%d/cwd/%s", getppid(), argv[3]);
			_exit(look(path) < 0 ? 100 + errno : 0);
		}
		say("attempt\n");
		return report(pid);
	}
	ATTEMPT(look(path));
	return 0;
}

/* ownlink TARGET LINK: a symlink the workload makes itself */
static int ownlink_word(int argc, char **argv)
{
	if (symlink(argv[1], argv[2]))
		return 1;
	ATTEMPT(look(argv[2]));
	return 0;
}

/* moved DIRECTORY NEW NAME: renames the folder, then reads in it under its new name */
static int moved_word(int argc, char **argv)
{
	char path[5000];

	say("attempt\n");
	if (rename(argv[1], argv[2])) {
		result(-1);
		return 0;
	}
	snprintf(path, sizeof(path), "%s/%s", argv[2], argv[3]);
	result(look(path));
	return 0;
}

/* chroot ROOT PATH */
static int chroot_word(int argc, char **argv)
{
	if (chroot(argv[1]) || chdir("/"))
		return 1;
	ATTEMPT(look(argv[2]));
	return 0;
}

/* namespace FLAGS PATH: a child in the new namespaces reads. The call itself is the attempt. */
static int namespace_word(int argc, char **argv)
{
	int pid;

	say("attempt\n");
	if (unshare(strtol(argv[1], 0, 0))) {
		result(-1);
		return 0;
	}
	pid = fork();
	if (!pid)
		_exit(look(argv[2]) < 0 ? 100 + errno : 0);
	return report(pid);
}

/* chrootcall ROOT: the call is the attempt */
static int chrootcall_word(int argc, char **argv)
{
	ATTEMPT(chroot(argv[1]));
	return 0;
}

/* bind SOURCE TARGET NAME: a bind mount, then a read below it */
static int bind_word(int argc, char **argv)
{
	char path[5000];

	say("attempt\n");
	if (mount(argv[1], argv[2], 0, MS_BIND, 0)) {
		result(-1);
		return 0;
	}
	snprintf(path, sizeof(path), "%s/%s", argv[2], argv[3]);
	result(look(path));
	return 0;
}

/* overlay LOWER UPPER WORK TARGET NAME */
static int overlay_word(int argc, char **argv)
{
	char options[9000], path[5000];

	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", argv[1], argv[2], argv[3]);
	say("attempt\n");
	if (mount("overlay", argv[4], "overlay", 0, options)) {
		result(-1);
		return 0;
	}
	snprintf(path, sizeof(path), "%s/%s", argv[4], argv[5]);
	result(look(path));
	return 0;
}

/* opentree DIRECTORY NAME: a detached mount */
static int opentree_word(int argc, char **argv)
{
	int tree, fd;

	say("attempt\n");
	tree = syscall(428, AT_FDCWD, argv[1], 1 /* OPEN_TREE_CLONE */);
	if (tree < 0) {
		result(-1);
		return 0;
	}
	fd = openat(tree, argv[2], O_RDONLY);
	result(fd);
	show(fd);
	return 0;
}

/* fsopen: a file system context, the first step of a mount of the new kind */
static int fsopen_word(int argc, char **argv)
{
	ATTEMPT(syscall(430, "tmpfs", 0));
	return 0;
}

/* pivot ROOT PATH: a mount namespace whose root is ROOT */
static int pivot_word(int argc, char **argv)
{
	if (unshare(CLONE_NEWNS))
		return 1;
	say("attempt\n");
	if (mount("none", "/", 0, MS_REC | MS_PRIVATE, 0) || mount(argv[1], argv[1], 0, MS_BIND, 0) || chdir(argv[1]) ||
	    syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH)) {
		result(-1);
		return 0;
	}
	result(look(argv[2]));
	return 0;
}

/* chain build|read BASE COUNT SIZE LAST: COUNT folders with names of SIZE bytes below one another, a file of LAST bytes */
static int chain_word(int argc, char **argv)
{
	char name[256] = { 0 };
	int build = !strcmp(argv[1], "build"), dir = open(argv[2], O_PATH), next, fd;

	memset(name, 'd', atoi(argv[4]));
	for (int i = atoi(argv[3]); i > 0; i--) {
		if (build && mkdirat(dir, name, 0755))
			return 1;
		next = openat(dir, name, O_PATH | O_DIRECTORY);
		if (next < 0)
			return 2;
		close(dir);
		dir = next;
	}
	memset(name, 0, sizeof(name));
	memset(name, 'd', atoi(argv[5]));
	if (build) {
		fd = openat(dir, name, O_WRONLY | O_CREAT, 0644);
		return write(fd, "deep", 4) == 4 ? 0 : 3;
	}
	say("attempt\n");
	fd = openat(dir, name, O_RDONLY);
	result(fd);
	show(fd);
	return 0;
}

/* comm NAME PATH: under a name that is somebody else's */
static int comm_word(int argc, char **argv)
{
	prctl(PR_SET_NAME, argv[1]);
	ATTEMPT(look(argv[2]));
	return 0;
}

const struct word path_words[] = {
	{ "read", 1, read_word },
	{ "remove", 1, remove_word },
	{ "readfrom", 2, readfrom_word },
	{ "readin", 2, readin_word },
	{ "readat", 2, readat_word },
	{ "proc", 3, proc_word },
	{ "ownlink", 2, ownlink_word },
	{ "moved", 3, moved_word },
	{ "chroot", 2, chroot_word },
	{ "chrootcall", 1, chrootcall_word },
	{ "namespace", 2, namespace_word },
	{ "bind", 3, bind_word },
	{ "overlay", 5, overlay_word },
	{ "opentree", 2, opentree_word },
	{ "fsopen", 0, fsopen_word },
	{ "pivot", 2, pivot_word },
	{ "chain", 5, chain_word },
	{ "comm", 2, comm_word },
	{ 0 },
};
