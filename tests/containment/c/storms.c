// SPDX-License-Identifier: Apache-2.0
/*
 * What remembered verdicts depend on, changed as fast as possible while a workload uses the files (storms.py). Both know
 * the same tree, DIR/{a,x}/b/c, under all names that its parts ever have; nothing in it is denied, because what is compared
 * is which object the kernel took a file for.
 */
#include "probe.h"

#include <sys/mman.h>
#include <sys/mount.h>

static unsigned int seed;

static unsigned int any(unsigned int n)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 16) % n;
}

static const char *const tops[] = { "a", "a", "x", "a2", "m", "m2" }, *const middles[] = { "b", "b", "b2" },
			 *const lows[] = { "c", "c", "c2" },
			 *const files[] = { "f0", "f1", "f2", "f3", "g0", "h1", "k" };
#define ONE_OF(names) names[any(sizeof(names) / sizeof(*names))]

static void makes(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0755);

	if (fd >= 0 && write(fd, path, strlen(path)) < 0)
		_exit(98);
	close(fd);
}

/* stormuse DIR ROUNDS: everything that memory is asked about, each several times, so that it is there */
static int stormuse_word(int argc, char **argv)
{
	char path[400], other[420], *args[] = { path, 0 };
	long done = 0;

	seed = getpid();
	say("attempt\n");
	for (long i = atol(argv[2]); i > 0; i--) {
		snprintf(path, sizeof(path), "%s/%s/%s/%s/%s", argv[1], ONE_OF(tops), ONE_OF(middles), ONE_OF(lows),
			 ONE_OF(files));
		for (int k = 0; k < 5; k++) {
			int fd = open(path, k == 3 ? O_RDWR : O_RDONLY);
			void *code;

			if (fd < 0)
				break;
			code = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
			if (code != MAP_FAILED)
				munmap(code, 4096);
			close(fd);
			done++;
		}
		if (i & 3)
			continue;
		for (int k = 0; k < 3; k++)
			execv(path, args); /* judged, and then no program: ENOEXEC */
		snprintf(path, sizeof(path), "%s/%s/%s/%s/own%d", argv[1], ONE_OF(tops), ONE_OF(middles), ONE_OF(lows),
			 getpid() & 1);
		snprintf(other, sizeof(other), "%s.2", path);
		for (int k = 0; k < 4; k++) {
			makes(path);
			chmod(path, 0600 + k);
			utimensat(AT_FDCWD, path, 0, 0); /* its hook is told no mount */
			if (!rename(path, other) && !link(other, path))
				unlink(other);
			if (truncate(path, 1) && errno == ENOENT)
				break;
			unlink(path);
			done++;
		}
	}
	snprintf(path, sizeof(path), "done %ld\n", done);
	say(path);
	return 0;
}

static const char *base;

/* A path below the folder; four at once. */
static const char *at(const char *rest)
{
	static char made[4][400];
	static int turn;

	turn = (turn + 1) & 3;
	snprintf(made[turn], sizeof(made[turn]), "%s/%s", base, rest);
	return made[turn];
}

/* Gives the users time to remember what they see, and to be in the middle of something when it changes. */
static void lets_use(void)
{
	usleep(any(4) ? any(400) : 3000);
}

static void to_and_fro(const char *from, const char *to)
{
	rename(at(from), at(to));
	lets_use();
	rename(at(to), at(from));
}

static void other_name(void)
{
	link(at("a/b/c/f1"), at("a/b/c/h1"));
	lets_use();
	if (any(2)) { /* the same inode, by one name again, which is another */
		unlink(at("a/b/c/f1"));
		lets_use();
		link(at("a/b/c/h1"), at("a/b/c/f1"));
	}
	unlink(at("a/b/c/h1"));
}

static void made_again(void)
{
	unlink(at("a/b/c/f2"));
	lets_use();
	makes(at("a/b/c/f2"));
}

/*
 * One inode at two places one after the other, without a rename: the names and folders of the first are gone before those
 * of the second are made, so that the kernel makes them of the same memory.
 */
static void moved_by_links(void)
{
	static int second;
	const char *here = second ? "a/b2" : "x/b2", *there = second ? "x/b2" : "a/b2";
	char path[100];

	mkdir(at(here), 0755);
	snprintf(path, sizeof(path), "%s/c", here);
	mkdir(at(path), 0755);
	strcat(path, "/k");
	link(at("kept"), at(path));
	unlink(at("kept"));
	lets_use();
	link(at(path), at("kept"));
	unlink(at(path));
	path[strlen(path) - 2] = 0;
	rmdir(at(path));
	rmdir(at(here));
	mkdir(at(there), 0755);
	snprintf(path, sizeof(path), "%s/c", there);
	mkdir(at(path), 0755);
	strcat(path, "/k");
	link(at("kept"), at(path));
	unlink(at("kept"));
	lets_use();
	link(at(path), at("kept"));
	unlink(at(path));
	path[strlen(path) - 2] = 0;
	rmdir(at(path));
	rmdir(at(there));
	second = !second;
}

static void elsewhere_too(void)
{
	if (mount(at(any(2) ? "a" : "x"), at("m"), 0, MS_BIND, 0))
		return;
	lets_use();
	if (any(2) && !mount(at("m"), at("m2"), 0, MS_MOVE, 0)) {
		lets_use();
		umount2(at("m2"), MNT_DETACH);
	}
	umount2(at("m"), MNT_DETACH);
}

static void covered(void)
{
	const char *place = at(any(2) ? "a/b/c" : "x/b");

	if (mount("storm", place, "tmpfs", 0, 0))
		return;
	makes(at("a/b/c/f0"));
	lets_use();
	umount2(place, MNT_DETACH);
}

/* stormchange DIR STOP [WHAT]: until STOP exists; one kind of change only (its number), or all of them */
static int stormchange_word(int argc, char **argv)
{
	long turns = 0;
	int only = argc > 3 ? atoi(argv[3]) : -1;

	base = argv[1];
	seed = getpid();
	say("attempt\n");
	while (access(argv[2], F_OK)) {
		switch (only < 0 ? any(10) : only) {
		case 0:
			to_and_fro("a/b/c/f0", "a/b/c/g0");
			break;
		case 1:
			to_and_fro("a/b/c", "a/b/c2");
			break;
		case 2:
			to_and_fro("a/b", any(2) ? "a/b2" : "x/b2");
			break;
		case 3:
			to_and_fro("a", "a2");
			break;
		case 4:
			syscall(SYS_renameat2, AT_FDCWD, at("a"), AT_FDCWD, at("x"), 2 /* RENAME_EXCHANGE */);
			break;
		case 5:
			other_name();
			break;
		case 6:
			made_again();
			break;
		case 7:
			moved_by_links();
			break;
		case 8:
			elsewhere_too();
			break;
		default:
			covered();
		}
		turns++;
		lets_use();
	}
	printf("done %ld\n", turns);
	return 0;
}

/* stormlay DIR: the tree, as all changes leave it */
static int stormlay_word(int argc, char **argv)
{
	char path[100];

	base = argv[1];
	for (int i = 0; i < 2; i++) {
		const char *top = i ? "x" : "a";

		for (const char *const *below = (const char *const[]){ "", "/b", "/b/c", 0 }; *below; below++) {
			snprintf(path, sizeof(path), "%s%s", top, *below);
			mkdir(at(path), 0755);
		}
		for (int file = 0; file < 4; file++) {
			snprintf(path, sizeof(path), "%s/b/c/f%d", top, file);
			makes(at(path));
		}
	}
	mkdir(at("m"), 0755);
	mkdir(at("m2"), 0755);
	makes(at("kept"));
	return 0;
}

/* merged HOW DIR: one thing that overlayfs does more for than others; `all`: all of them (overlays.py) */
static int merged_word(int argc, char **argv)
{
	static const char *const hows[] = { "reads",
					    "reads what was copied up",
					    "makes again",
					    "makes an opaque folder",
					    "changes the mode",
					    "links",
					    "copies up",
					    "renames",
					    "truncates",
					    "removes a merged folder",
					    "whites out" };
	int all = !strcmp(argv[1], "all"), failed = 0;

	base = argv[2];
	say("attempt\n");
	for (size_t i = 0; i < sizeof(hows) / sizeof(*hows); i++) {
		const char *how = hows[i];

		if (!all && strcmp(how, argv[1]))
			continue;
		if (!strcmp(how, "reads"))
			failed = look(at("file")) < 0;
		else if (!strcmp(how, "reads what was copied up"))
			failed = look(at("copied")) < 0;
		else if (!strcmp(how, "makes again"))
			failed = creat(at("gone"), 0644) < 0;
		else if (!strcmp(how, "makes an opaque folder"))
			failed = mkdir(at("below"), 0755);
		else if (!strcmp(how, "changes the mode"))
			failed = chmod(at("file"), 0600);
		else if (!strcmp(how, "links"))
			failed = link(at("file"), at("more"));
		else if (!strcmp(how, "copies up"))
			failed = open(at("file"), O_WRONLY | O_APPEND) < 0;
		else if (!strcmp(how, "renames"))
			failed = rename(at("file"), at("moved"));
		else if (!strcmp(how, "truncates"))
			failed = truncate(at(all ? "moved" : "file"), 1);
		else if (!strcmp(how, "removes a merged folder"))
			failed = rmdir(at("empty"));
		else
			failed = unlink(at(all ? "moved" : "file"));
		if (failed)
			break;
	}
	result(failed ? -1 : 0);
	return 0;
}

const struct word storm_words[] = {
	{ "merged", 2, merged_word },
	{ "stormuse", 2, stormuse_word },
	{ "stormchange", 2, stormchange_word },
	{ "stormlay", 1, stormlay_word },
	{ 0 },
};
