// SPDX-License-Identifier: Apache-2.0
/* Rows 20, 21, 23 and 25: opens, changes, other system call tables. */
#include "probe.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/xattr.h>

#define IS(text) (!strcmp(how, text))

/* open FLAGS PATH: and writes, or else reads */
static int open_word(int argc, char **argv)
{
	int flags = strtol(argv[1], 0, 0), fd;

	say("attempt\n");
	fd = open(argv[2], flags, 0644);
	if (fd >= 0 && (flags & O_ACCMODE) == O_WRONLY && write(fd, "more", 4) < 0)
		fd = -1;
	result(fd);
	if (fd >= 0 && (flags & O_ACCMODE) != O_WRONLY) {
		lseek(fd, 0, SEEK_SET);
		show(fd);
	}
	return 0;
}

/* reopen PATH: a path descriptor, opened again through /proc */
static int reopen_word(int argc, char **argv)
{
	int fd = open(argv[1], O_PATH);
	char link[64];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ATTEMPT(look(link));
	return 0;
}

/* handle ROOT PATH: by its handle, with no name at all */
static int handle_word(int argc, char **argv)
{
	struct {
		struct file_handle head;
		char bytes[128];
	} handle = { .head.handle_bytes = 128 };
	int id, root = open(argv[1], O_RDONLY), fd;

	if (name_to_handle_at(AT_FDCWD, argv[2], &handle.head, &id, 0))
		return 1;
	say("attempt\n");
	fd = open_by_handle_at(root, &handle.head, O_RDONLY);
	result(fd);
	show(fd);
	return 0;
}

static int openat2_word(int argc, char **argv)
{
	unsigned long long how[3] = { O_RDONLY, 0, 0 };
	int fd;

	say("attempt\n");
	fd = syscall(437, AT_FDCWD, argv[1], how, sizeof(how));
	result(fd);
	show(fd);
	return 0;
}

static int change_times(const char *how, int p)
{
	if (IS("utime"))
		return syscall(SYS_utime, "file", 0);
	if (IS("utimes"))
		return syscall(SYS_utimes, "file", 0);
	if (IS("futimesat"))
		return syscall(SYS_futimesat, p, "file", 0);
	if (IS("utimensat"))
		return utimensat(p, "file", 0, 0);
	if (IS("futimens"))
		return futimens(open("file", O_RDONLY), 0);
	if (IS("lutimens"))
		return utimensat(AT_FDCWD, "link", 0, AT_SYMLINK_NOFOLLOW);
	if (IS("setxattr"))
		return setxattr("file", "trusted.a", "b", 1, 0);
	if (IS("lsetxattr"))
		return lsetxattr("link", "trusted.a", "b", 1, 0);
	if (IS("fsetxattr"))
		return fsetxattr(open("file", O_RDONLY), "trusted.a", "b", 1, 0);
	if (IS("removexattr"))
		return removexattr("file", "trusted.there");
	errno = EINVAL;
	return -1;
}

/* The access list u::rw-,u:1:r--,g::r--,m::r--,o::r-- as an extended attribute (linux/posix_acl_xattr.h, version 2). */
static int change_list(void)
{
	const struct {
		unsigned int version;
		struct {
			unsigned short tag, perm;
			unsigned int id;
		} entry[5];
	} list = { 2, { { 1, 6, -1u }, { 2, 4, 1 }, { 4, 4, -1u }, { 0x10, 4, -1u }, { 0x20, 4, -1u } } };

	return setxattr("file", "system.posix_acl_access", &list, sizeof(list), 0);
}

static int change_flags(int command)
{
	int fd = open("file", O_RDONLY), flags = FS_NODUMP_FL;
	struct fsxattr more = { .fsx_xflags = FS_XFLAG_NODUMP };

	if (ioctl(fd, command ? FS_IOC_FSSETXATTR : FS_IOC_SETFLAGS, command ? (void *)&more : &flags)) {
		errno = errno == ENOTTY ? EOPNOTSUPP : errno;
		return -1;
	}
	return 0;
}

/* file_setattr() of Linux 6.17; struct file_attr of linux/fs.h there */
static int change_flags_by_name(void)
{
	struct {
		unsigned long long xflags;
		unsigned int extsize, nextents, projid, cowextsize;
	} attributes = { FS_XFLAG_NODUMP, 0, 0, 0, 0 };

	return syscall(469, AT_FDCWD, "file", &attributes, sizeof(attributes), 0);
}

static int change_attributes(const char *how, int p)
{
	if (IS("an access list"))
		return change_list();
	if (IS("chattr") || IS("chattr, extended"))
		return change_flags(strlen(how) > 6);
	if (IS("file_setattr"))
		return change_flags_by_name();
	if (IS("chmod"))
		return chmod("file", 0600);
	if (IS("chmod through a link"))
		return chmod("link", 0600);
	if (IS("fchmod"))
		return fchmod(open("file", O_RDONLY), 0600);
	if (IS("fchmodat"))
		return syscall(SYS_fchmodat, p, "file", 0600);
	if (IS("fchmodat2"))
		return syscall(452, p, "file", 0600, 0);
	if (IS("chown"))
		return chown("file", 1, 1);
	if (IS("lchown"))
		return lchown("link", 1, 1);
	if (IS("fchown"))
		return fchown(open("file", O_RDONLY), 1, 1);
	if (IS("fchownat"))
		return fchownat(p, "link", 1, 1, AT_SYMLINK_NOFOLLOW);
	if (IS("fchownat, empty"))
		return fchownat(open("file", O_PATH), "", 1, 1, AT_EMPTY_PATH);
	return change_times(how, p);
}

static int punched(const char *file)
{
	int fd = open(file, O_WRONLY);

	return fd < 0 ? -1 : fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2);
}

/* In the denied folder; p: a path descriptor of it; f: one of the free folder. */
static int change(const char *how, int p, int f)
{
	if (IS("truncate"))
		return truncate("file", 1);
	if (IS("truncate through a link"))
		return truncate("link", 1);
	if (IS("punch"))
		return punched("file");
	if (IS("creat"))
		return creat("new", 0644);
	if (IS("unlink"))
		return unlink("file");
	if (IS("unlinkat"))
		return unlinkat(p, "file", 0);
	if (IS("unlink of a link"))
		return unlink("link");
	if (IS("unlink through a folder"))
		return unlinkat(f, "into/file", 0);
	if (IS("rmdir"))
		return rmdir("below");
	if (IS("unlinkat of a folder"))
		return unlinkat(p, "below//", AT_REMOVEDIR);
	if (IS("rename from"))
		return renameat(p, "file", f, "new");
	if (IS("rename to"))
		return renameat(f, "file", AT_FDCWD, "new");
	if (IS("rename over"))
		return renameat(f, "file", AT_FDCWD, "file");
	if (IS("rename within"))
		return rename("file", "new");
	if (IS("rename, exchange"))
		return syscall(SYS_renameat2, f, "file", p, "file", 2);
	if (IS("link from"))
		return linkat(AT_FDCWD, "file", f, "new", 0);
	if (IS("link to"))
		return linkat(f, "file", p, "new", 0);
	if (IS("linkat of a descriptor"))
		return linkat(openat(f, "file", O_PATH), "", p, "new", AT_EMPTY_PATH);
	if (IS("symlink"))
		return symlink("/etc/passwd", "new");
	if (IS("symlinkat"))
		return symlinkat("/etc/passwd", p, "new");
	if (IS("mkdir"))
		return mkdir("new", 0755);
	if (IS("mkdirat"))
		return mkdirat(f, "into/new", 0755);
	if (IS("mknod"))
		return mknod("new", S_IFREG | 0644, 0);
	if (IS("mkfifo"))
		return mkfifo("new", 0644);
	if (IS("mknodat of a device"))
		return mknodat(p, "new", S_IFCHR | 0644, 1 << 8 | 3);
	return change_attributes(how, p);
}

/* change HOW DENIED FREE */
static int change_word(int argc, char **argv)
{
	int p = open(argv[2], O_PATH), f = open(argv[3], O_PATH);

	if (chdir(argv[2]))
		return 1;
	ATTEMPT(change(argv[1], p, f));
	return 0;
}

/* through HOW PATH: reads without read() */
static int through_word(int argc, char **argv)
{
	const char *how = argv[1];
	int fd, pipes[2], memory = memfd_create("x", 0);

	say("attempt\n");
	fd = open(argv[2], O_RDONLY);
	if (fd < 0) {
		result(-1);
		return 0;
	}
	if (IS("sendfile")) {
		result(sendfile(memory, fd, 0, 100));
	} else if (IS("copy_file_range")) {
		long n = copy_file_range(fd, 0, memory, 0, 100, 0);

		if (n < 0 && errno == EXDEV)
			n = sendfile(memory, fd, 0, 100);
		result(n);
	} else if (IS("splice")) {
		if (pipe(pipes))
			return 1;
		result(splice(fd, 0, pipes[1], 0, 100, 0));
		memory = pipes[0];
	} else {
		char *text = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);

		if (text == MAP_FAILED) {
			result(-1);
			return 0;
		}
		result(write(memory, text, strlen(text)));
	}
	if (memory != pipes[0])
		lseek(memory, 0, SEEK_SET);
	show(memory);
	return 0;
}

/* narrow open|unlink PATH: a call of 32 bits */
static int narrow_word(int argc, char **argv)
{
	/* the address must fit in 32 bits */
	char *low =
		mmap((void *)0x10000000, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	long value, number = !strcmp(argv[1], "open") ? 5 : 10;

	strcpy(low, argv[2]);
	say("attempt\n");
	__asm__ volatile("int $0x80" : "=a"(value) : "a"(number), "b"(low), "c"(0), "d"(0) : "memory");
	if (value < 0) {
		errno = -value;
		value = -1;
	}
	result(value);
	if (number == 5)
		show(value);
	return 0;
}

/* wide PATH: open by the x32 table */
static int wide_word(int argc, char **argv)
{
	int fd;

	say("attempt\n");
	fd = syscall(0x40000000 | 2, argv[1], O_RDONLY, 0);
	result(fd);
	show(fd);
	return 0;
}

const struct word file_words[] = {
	{ "open", 2, open_word },	{ "reopen", 1, reopen_word }, { "handle", 2, handle_word },
	{ "openat2", 1, openat2_word }, { "change", 3, change_word }, { "through", 2, through_word },
	{ "narrow", 2, narrow_word },	{ "wide", 1, wide_word },     { 0 },
};
