// SPDX-License-Identifier: Apache-2.0
/*
 * Rows 50 to 53. A denied operation may end its process, so whoever tries is a child, and a parent counts. What must not
 * be is said as `escaped N`; `done N M`: how many tries there were, and how many succeeded as they may.
 */
#include "probe.h"

#include <linux/sched.h>
#include <sys/time.h>

struct score { /* shared by all processes of a race */
	volatile long flips;
	long tries, good, escaped;
	volatile int stop;
	char text[256];
	struct sockaddr_in to;
};

static struct score *score;

static void begin(void)
{
	score = mmap(0, sizeof(*score), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	say("attempt\n");
}

static int finish(void)
{
	char line[100];

	snprintf(line, sizeof(line), "done %ld %ld\nescaped %ld\n", score->tries, score->good, score->escaped);
	say(line);
	return 0;
}

static char *plain, *denied;

/*
 * Both values must really be there for a while, or the last one written wins nearly always; also on one CPU. Nor may the two
 * keep step there, or only one of the values is ever met: so it rests once, twice or three times.
 */
static __attribute__((noinline)) void rest_a_little(void)
{
	static unsigned int chance = 1;

	for (volatile int i = 0; i < 200; i++)
		;
	score->flips++;
	chance = chance * 1103515245 + 12345;
	for (unsigned int i = 0; i <= (chance >> 16) % 3; i++)
		sched_yield();
}

static void *flips_path(void *unused)
{
	while (!score->stop) {
		strcpy(score->text, plain);
		rest_a_little();
		strcpy(score->text, denied);
		rest_a_little();
	}
	return 0;
}

static void *flips_link(void *unused)
{
	char other[300];

	snprintf(other, sizeof(other), "%s.new", score->text);
	for (int i = 0; !score->stop; i++) {
		unlink(other);
		if (!symlink(i & 1 ? plain : denied, other))
			rename(other, score->text);
		rest_a_little();
	}
	return 0;
}

/* What it could read: `secret` is what may not be. */
static void try_open(void)
{
	char text[100] = "";
	int fd;

	score->tries++;
	sched_yield();
	fd = open(score->text, O_RDONLY);
	if (fd < 0)
		return;
	if (read(fd, text, 99) > 0) {
		score->good++;
		if (strstr(text, "secret"))
			score->escaped++;
	}
	close(fd);
}

/* flip path|link ROUNDS PLAIN DENIED LINK */
static int flip_word(int argc, char **argv)
{
	long rounds = atol(argv[2]);
	pthread_t thread;

	plain = argv[3];
	denied = argv[4];
	begin();
	strcpy(score->text, !strcmp(argv[1], "link") ? argv[5] : plain);
	if (!strcmp(argv[1], "link") && !fork()) { /* not the one that is killed */
		flips_link(0);
		_exit(0);
	}
	while (score->tries < rounds || score->flips < rounds) {
		if (!fork()) {
			if (!strcmp(argv[1], "path"))
				pthread_create(&thread, 0, flips_path, 0);
			while (score->tries < rounds || score->flips < rounds)
				try_open();
			_exit(0);
		}
		wait(0);
	}
	score->stop = 1;
	while (wait(0) > 0)
		;
	return finish();
}

static in_port_t ports[2];

static void *flips_port(void *unused)
{
	while (!score->stop) {
		score->to.sin_port = ports[0];
		rest_a_little();
		score->to.sin_port = ports[1];
		rest_a_little();
	}
	return 0;
}

/* flipport ROUNDS ALLOWED DENIED: datagrams; who got them says the one who listens */
static int flipport_word(int argc, char **argv)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	pthread_t thread;

	ports[0] = htons(atoi(argv[2]));
	ports[1] = htons(atoi(argv[3]));
	begin();
	score->to.sin_family = AF_INET;
	score->to.sin_port = ports[0];
	score->to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	pthread_create(&thread, 0, flips_port, 0);
	for (long i = atol(argv[1]); i > 0 || score->flips < atol(argv[1]); i--, score->tries++, sched_yield())
		if (sendto(s, "hello", 5, MSG_DONTWAIT, (void *)&score->to, sizeof(score->to)) > 0)
			score->good++;
	score->stop = 1;
	pthread_join(thread, 0);
	return finish();
}

static void *flips_word(void *unused)
{
	while (!score->stop) {
		memcpy(score->text, "--permitted", 12);
		rest_a_little();
		memcpy(score->text, "--forbidden", 12);
		rest_a_little();
	}
	return 0;
}

/* flipargv ROUNDS TOOL MARK: an argument is rewritten while execve copies it; the tool makes MARK if it got the bad one */
static int flipargv_word(int argc, char **argv)
{
	char *words[] = { "if", 0, argv[3], 0 };
	pthread_t thread;
	int status;

	begin();
	words[1] = score->text;
	for (long i = atol(argv[1]); i > 0; i--, score->tries++) {
		int pid = fork();

		if (!pid) {
			long begun = score->flips;

			memcpy(score->text, "--permitted", 12);
			pthread_create(&thread, 0, flips_word, 0);
			while (score->flips <= begun + i % 5)
				sched_yield();
			execv(argv[2], words);
			_exit(1);
		}
		waitpid(pid, &status, 0);
		if (!status)
			score->good++;
		if (!access(argv[3], F_OK)) {
			score->escaped++;
			unlink(argv[3]);
		}
	}
	return finish();
}

/* preempt ROUNDS PLAIN DENIED: one CPU; a task with real-time priority opens what it may while others open what they may not */
static int preempt_word(int argc, char **argv)
{
	struct sched_param rt = { .sched_priority = 10 };
	long rounds = atol(argv[1]);
	cpu_set_t one;
	int status, urgent;
	char text[100];

	plain = argv[2];
	denied = argv[3];
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof(one), &one);
	begin();
	urgent = fork();
	if (!urgent) {
		sched_setscheduler(0, SCHED_FIFO, &rt);
		while (!score->stop) {
			struct timespec pause = { 0, 20000 };
			int fd = open(plain, O_RDONLY);

			if (fd >= 0 && read(fd, text, 99) > 0)
				score->good++;
			close(fd);
			nanosleep(&pause, 0);
		}
		_exit(0);
	}
	for (; score->tries < rounds; score->tries++) {
		int pid = fork();

		if (!pid) {
			int fd = open(denied, O_RDONLY);

			if (fd >= 0 && read(fd, text, 99) > 0)
				score->escaped++;
			_exit(0);
		}
		waitpid(pid, &status, 0);
	}
	score->stop = 1;
	waitpid(urgent, &status, 0);
	finish();
	return status != 0; /* what is allowed was refused */
}

/* One of a crowd: its children open what they may not, and run what they may not. */
static void jostle(long rounds, char **program)
{
	char text[100];
	int status;

	for (long i = 0; i < rounds; i++) {
		int pid = fork();

		if (!pid) {
			int fd = i & 1 ? execv(program[0], program) : open(denied, O_RDONLY);

			if (fd >= 0 && read(fd, text, 99) > 0)
				__sync_fetch_and_add(&score->escaped, 1);
			_exit(0);
		}
		__sync_fetch_and_add(&score->tries, 1);
		waitpid(pid, &status, 0);
	}
}

/* crowd WORKERS ROUNDS DENIED PROGRAM MARK: all on one CPU, where the kernel takes it from each wherever it is just then */
static int crowd_word(int argc, char **argv)
{
	cpu_set_t one;
	int status;

	denied = argv[3];
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof(one), &one);
	begin();
	for (int i = atoi(argv[1]); i > 0; i--)
		if (!fork()) {
			jostle(atol(argv[2]), argv + 4);
			_exit(0);
		}
	while (wait(&status) > 0)
		;
	score->escaped += !access(argv[5], F_OK);
	return finish();
}

/* swapport FIRST SECOND GO: connects; while that is held, another process of the workload writes another port over it */
static int swapport_word(int argc, char **argv)
{
	int s = socket(AF_INET, SOCK_STREAM, 0), pid;

	begin();
	score->to.sin_family = AF_INET;
	score->to.sin_port = htons(atoi(argv[1]));
	score->to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	pid = fork();
	if (!pid) {
		wait_for(argv[3]);
		score->to.sin_port = htons(atoi(argv[2]));
		score->stop = 1;
		say("swapped\n");
		_exit(0);
	}
	result(connect(s, (void *)&score->to, sizeof(score->to)));
	waitpid(pid, 0, 0);
	return 0;
}

/* swapname FROM FIRST SECOND GO: renames; while that is held, another process of the workload writes another name over it */
static int swapname_word(int argc, char **argv)
{
	char *to = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int pid;

	strcpy(to, argv[2]);
	pid = fork();
	if (!pid) {
		wait_for(argv[4]);
		strcpy(to, argv[3]);
		say("swapped\n");
		_exit(0);
	}
	result(rename(argv[1], to));
	waitpid(pid, 0, 0);
	return 0;
}

static char **doing;

static void *meanwhile(void *unused)
{
	usleep(1000);
	if (!strcmp(doing[0], "exec"))
		execv(doing[1], doing + 1);
	else if (!strcmp(doing[0], "exit"))
		_exit(7);
	else if (!fork())
		_exit(0);
	return 0;
}

/* busy PORT exec|exit|fork [PROGRAM ARGUMENTS...]: a held connect, and another thread that does something else */
static int busy_word(int argc, char **argv)
{
	struct sockaddr_in to = { AF_INET, htons(atoi(argv[1])), { htonl(INADDR_LOOPBACK) } };
	int s = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t thread;

	doing = argv + 2;
	say("attempt\n");
	pthread_create(&thread, 0, meanwhile, 0);
	result(connect(s, (void *)&to, sizeof(to)));
	pthread_join(thread, 0);
	return 0;
}

/* waken N HOW ...: a child does what is held (connect PORT, or exec PROGRAM MARK), its parent sends it SIGCONT N times */
static int waken_word(int argc, char **argv)
{
	struct sockaddr_in to = { AF_INET, 0, { htonl(INADDR_LOOPBACK) } };
	int pid, status;

	say("attempt\n");
	pid = fork();
	if (!pid) {
		if (!strcmp(argv[2], "exec")) {
			execv(argv[3], argv + 3);
		} else {
			to.sin_port = htons(atoi(argv[3]));
			result(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&to, sizeof(to)));
		}
		_exit(0);
	}
	waitpid(pid, &status, WUNTRACED);
	for (int i = atoi(argv[1]); i > 0; i--)
		if (kill(pid, SIGCONT))
			break;
	usleep(50000);
	return 0;
}

const struct word race_words[] = {
	{ "flip", 5, flip_word },	  { "flipport", 3, flipport_word },
	{ "flipargv", 3, flipargv_word }, { "preempt", 3, preempt_word },
	{ "swapport", 3, swapport_word }, { "swapname", 4, swapname_word },
	{ "busy", 2, busy_word },	  { "waken", 3, waken_word },
	{ "crowd", 5, crowd_word },	  { 0 },
};
