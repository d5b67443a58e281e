// SPDX-License-Identifier: Apache-2.0
/*
 * Row 50, for calls that change what they name: while one thread makes the call, another swaps what the name means.
 * Everything happens in one process, which goes on when it is refused. `escaped N`: changes that came about in the denied
 * folder; `done N M R`: tries, changes of the free folder, refusals.
 */
#include "probe.h"

static volatile int stop;
static char path[256], from_plain[256], from_denied[256];
static char *place, *other; /* folders: free and denied */
static int plain_fd, denied_fd, swapped_fd;

/* Of no regular length: in step with the other thread, it would find the same side each time. */
static void pause_briefly(void)
{
	static unsigned chance = 1;

	chance = chance * 1103515245 + 12345;
	for (volatile int i = chance >> 16 & 4095; i > 0; i--)
		;
	if (chance >> 30 & 1)
		sched_yield();
}

static void *swaps_text(void *unused)
{
	while (!stop) {
		strcpy(path, from_plain);
		pause_briefly();
		strcpy(path, from_denied);
		pause_briefly();
	}
	return 0;
}

static void *swaps_link(void *unused)
{
	char link[300], fresh[320];

	snprintf(link, sizeof(link), "%s/into-either", place);
	snprintf(fresh, sizeof(fresh), "%s.new", link);
	for (int i = 0; !stop; i++) {
		unlink(fresh);
		if (!symlink(i & 1 ? other : place, fresh))
			rename(fresh, link);
		pause_briefly();
	}
	return 0;
}

static void *swaps_descriptor(void *unused)
{
	for (int i = 0; !stop; i++) {
		dup2(i & 1 ? denied_fd : plain_fd, swapped_fd);
		pause_briefly();
	}
	return 0;
}

static void *swaps_cwd(void *unused) /* threads share it */
{
	for (int i = 0; !stop; i++) {
		if (fchdir(i & 1 ? denied_fd : plain_fd))
			return 0;
		pause_briefly();
	}
	return 0;
}

static int attempt(const char *what, int dirfd, long i)
{
	int fd;

	if (!strcmp(what, "chmod"))
		return fchmodat(dirfd, path, i & 1 ? 0600 : 0640, 0);
	if (!strcmp(what, "unlink"))
		return unlinkat(dirfd, path, 0);
	if (!strcmp(what, "rename")) { /* a name to itself would do nothing */
		char target[300];

		snprintf(target, sizeof(target), "%s.moved", path);
		return renameat(dirfd, path, dirfd, target);
	}
	fd = openat(dirfd, path, O_WRONLY | O_TRUNC | (!strcmp(what, "create") ? O_CREAT : 0), 0600);
	return fd < 0 ? fd : close(fd);
}

/* Makes folder/swap as it is before every try; what a denied folder lacks stays gone, and is an escape. */
static void lay(void)
{
	int fd = openat(plain_fd, "swap", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd >= 0) {
		fchmod(fd, 0644);
		if (write(fd, "text", 4) != 4)
			say("short write\n");
		close(fd);
	}
	unlinkat(plain_fd, "swap.moved", 0);
}

static int as_laid(int folder, const char *what)
{
	struct stat st;

	if (fstatat(folder, "swap", &st, 0))
		return !strcmp(what, "create"); /* not there at first */
	return strcmp(what, "create") && st.st_size == 4 && (st.st_mode & 0777) == 0644;
}

/* swaps text|link|descriptor|cwd CALL ROUNDS FREE DENIED; but for create, DENIED/swap has 4 bytes and mode 0644 */
static int swaps_word(int argc, char **argv)
{
	char *how = argv[1], *what = argv[2], line[120];
	long rounds = atol(argv[3]), good = 0, refused = 0, escaped = 0;
	void *(*swapper)(void *) = swaps_text;
	int dirfd = AT_FDCWD;
	pthread_t thread;

	place = argv[4];
	other = argv[5];
	plain_fd = open(place, O_PATH | O_DIRECTORY);
	denied_fd = open(other, O_PATH | O_DIRECTORY);
	swapped_fd = dup(plain_fd);
	snprintf(from_plain, sizeof(from_plain), "%s/swap", place);
	snprintf(from_denied, sizeof(from_denied), "%s/swap", other);
	if (!strcmp(how, "text")) {
		strcpy(path, from_plain);
	} else if (!strcmp(how, "link")) {
		snprintf(path, sizeof(path), "%s/into-either/swap", place);
		swapper = swaps_link;
	} else if (!strcmp(how, "descriptor")) {
		strcpy(path, "swap");
		dirfd = swapped_fd;
		swapper = swaps_descriptor;
	} else {
		strcpy(path, "swap");
		swapper = swaps_cwd;
		if (fchdir(plain_fd)) /* the first try may come before the thread's first step */
			return 98;
	}
	if (!as_laid(denied_fd, what))
		return 98;
	say("attempt\n");
	pthread_create(&thread, 0, swapper, 0);
	for (long i = 0; i < rounds; i++) {
		lay();
		if (!strcmp(what, "create"))
			unlinkat(plain_fd, "swap", 0);
		if (attempt(what, dirfd, i) == 0)
			good += !as_laid(plain_fd, what);
		else
			refused += errno == EPERM;
		if (!as_laid(denied_fd, what)) {
			escaped++;
			break;
		}
	}
	stop = 1;
	pthread_join(thread, 0);
	snprintf(line, sizeof(line), "done %ld %ld %ld\nescaped %ld\n", rounds, good, refused, escaped);
	say(line);
	return 0;
}

const struct word swap_words[] = {
	{ "swaps", 5, swaps_word },
	{ 0 },
};
