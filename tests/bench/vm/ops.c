// SPDX-License-Identifier: Apache-2.0
/*
 * The operations that `./dev bench --vm` counts, in a machine whose time stamp counter is an instruction counter (QEMU,
 * -icount shift=0). Reads lines "OPERATION COUNT FOLDER" and answers each with "MEDIAN LEAST TOTAL", in instructions: of
 * single operations, and of all of them together with whatever else this CPU did meanwhile. FOLDER: made by fresh.c.
 *
 * ops serve   reads standard input
 * ops check   does a counted stretch of code take what it must? else this clock is no counter
 *
 * An operation whose name ends in `-first` takes a new object each time: one of those in FOLDER, or a new address.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include "deep.h"

#define MAX_COUNT 20000

static unsigned long long samples[MAX_COUNT];
static const char *folder;
static int listener, datagrams, there[2], back[2];
static struct sockaddr_in tcp, udp;

static void die(const char *what)
{
	fprintf(stderr, "ops: %s: %s\n", what, strerror(errno));
	exit(1);
}

static const char *path(const char *format, int number)
{
	static char made[2][4096];
	static int turn;
	char name[256];

	turn = !turn;
	snprintf(name, sizeof(name), format, number);
	snprintf(made[turn], sizeof(made[turn]), "%s/%s", folder, name);
	return made[turn];
}

static void check(int failed, const char *what)
{
	if (failed)
		die(what);
}

/* Each operation prepares outside of begin() and end(), and is counted between them. */
static unsigned long long begun, took;

static void begin(void)
{
	begun = __rdtsc();
}

static void end(void)
{
	took = __rdtsc() - begun;
}

static void do_getppid(int number)
{
	begin();
	syscall(SYS_getppid);
	end();
}

static void do_stat(int number)
{
	const char *name = path("file0", 0);
	struct stat found;
	int failed;

	begin();
	failed = stat(name, &found);
	end();
	check(failed, "stat");
}

static void do_pipe(int number)
{
	static pid_t child;
	char byte = 0;
	int failed;

	if (!child) {
		check(pipe2(there, O_CLOEXEC) || pipe2(back, O_CLOEXEC), "pipe");
		child = fork();
		check(child < 0, "fork");
		if (!child) {
			close(there[1]);
			close(back[0]);
			while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
				;
			_exit(0);
		}
		close(there[0]);
		close(back[1]);
	}
	begin();
	failed = write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1;
	end();
	check(failed, "pipe");
}

static void open_close(const char *name)
{
	int fd, failed;

	begin();
	fd = open(name, O_RDONLY | O_CLOEXEC);
	failed = fd < 0 || close(fd);
	end();
	check(failed, name);
}

static void do_open3(int number)
{
	open_close(path("file0", 0));
}

static void do_open3_first(int number)
{
	open_close(path("file%d", number + 1));
}

static void do_open12(int number)
{
	open_close(path(DEEP "/file0", 0));
}

static void do_open12_first(int number)
{
	open_close(path(DEEP "/file%d", number + 1));
}

static void create_rename_unlink(const char *format, int number)
{
	const char *old = path(format, number);
	char new[4096];
	int fd, failed;

	snprintf(new, sizeof(new), "%s.x", old);
	begin();
	fd = open(old, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	failed = fd < 0 || close(fd) || rename(old, new) || unlink(new);
	end();
	check(failed, old);
}

static void do_change(int number)
{
	create_rename_unlink("new", number);
}

static void do_change_first(int number)
{
	create_rename_unlink("folder%d/new", number);
}

static void send_receive(int number)
{
	struct sockaddr_in to = udp;
	char byte = 0;
	int failed;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK + number);
	begin();
	failed = sendto(datagrams, &byte, 1, 0, (struct sockaddr *)&to, sizeof(to)) != 1 ||
		 recv(datagrams, &byte, 1, 0) != 1;
	end();
	check(failed, "udp");
}

static void do_udp(int number)
{
	send_receive(0);
}

static void do_udp_first(int number)
{
	static int addresses = 1 << 8;

	send_receive(++addresses);
}

static void connect_accept(int number)
{
	struct sockaddr_in to = tcp;
	struct linger gone = { .l_onoff = 1 };
	int one, other, failed;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK + number);
	begin();
	one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	failed = one < 0 || connect(one, (struct sockaddr *)&to, sizeof(to));
	other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	failed |=
		other < 0 || setsockopt(one, SOL_SOCKET, SO_LINGER, &gone, sizeof(gone)) || close(one) || close(other);
	end();
	check(failed, "tcp");
}

static void do_tcp(int number)
{
	connect_accept(0);
}

static void do_tcp_first(int number)
{
	static int addresses = 1 << 16;

	connect_accept(++addresses);
}

static void do_fork(int number)
{
	int status;
	pid_t pid;

	begin();
	pid = fork();
	if (!pid)
		_exit(0);
	check(pid < 0 || waitpid(pid, &status, 0) != pid || status, "fork");
	end();
}

static void fork_exec(const char *name)
{
	char *const words[] = { "true", NULL }, *const environment[] = { NULL };
	int status;
	pid_t pid;

	begin();
	pid = fork();
	if (!pid) {
		execve(name, words, environment);
		_exit(1);
	}
	check(pid < 0 || waitpid(pid, &status, 0) != pid || status, name);
	end();
}

static void do_exec(int number)
{
	fork_exec(path("program0", 0));
}

static void do_exec_first(int number)
{
	fork_exec(path("program%d", number + 1));
}

/* A thousand instructions: what the counter says of them proves that it counts. */
static void do_check(int number)
{
	begin();
	__asm__ volatile(".rept 1000\n\tnop\n\t.endr");
	end();
}

static const struct {
	const char *name;
	void (*run)(int number);
} operations[] = {
	{ "check", do_check },
	{ "getppid", do_getppid },
	{ "stat", do_stat },
	{ "pipe", do_pipe },
	{ "open3", do_open3 },
	{ "open3-first", do_open3_first },
	{ "open12", do_open12 },
	{ "open12-first", do_open12_first },
	{ "change", do_change },
	{ "change-first", do_change_first },
	{ "udp", do_udp },
	{ "udp-first", do_udp_first },
	{ "tcp", do_tcp },
	{ "tcp-first", do_tcp_first },
	{ "fork", do_fork },
	{ "exec", do_exec },
	{ "exec-first", do_exec_first },
};

static int compare(const void *a, const void *b)
{
	unsigned long long x = *(const unsigned long long *)a, y = *(const unsigned long long *)b;

	return (x > y) - (x < y);
}

static void measure(const char *name, int count)
{
	unsigned long long start;

	for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++) {
		if (strcmp(operations[i].name, name))
			continue;
		start = __rdtsc();
		for (int number = 0; number < count; number++) {
			operations[i].run(number);
			samples[number] = took;
		}
		start = __rdtsc() - start;
		qsort(samples, count, sizeof(*samples), compare);
		printf("%llu %llu %llu\n", count ? samples[count / 2] : 0, count ? samples[0] : 0, start);
		return;
	}
	errno = EINVAL;
	die(name);
}

static void serve(void)
{
	static char line[4096], where[4096], name[64];
	socklen_t size = sizeof(tcp);
	int count;

	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	tcp.sin_family = udp.sin_family = AF_INET;
	check(listener < 0 || bind(listener, (struct sockaddr *)&tcp, size) || listen(listener, 128) ||
		      getsockname(listener, (struct sockaddr *)&tcp, &size),
	      "tcp socket");
	check(datagrams < 0 || bind(datagrams, (struct sockaddr *)&udp, size) ||
		      getsockname(datagrams, (struct sockaddr *)&udp, &size),
	      "udp socket");
	setvbuf(stdout, NULL, _IOLBF, 0);
	folder = where;
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%63s %d %4095s", name, &count, where) != 3 || count < 0 || count > MAX_COUNT) {
			errno = EINVAL;
			die(line);
		}
		measure(name, count);
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "serve")) {
		serve();
	} else if (argc == 2 && !strcmp(argv[1], "check")) {
		measure("check", 9);
	} else {
		fprintf(stderr, "usage: ops serve | check\n");
		return 2;
	}
	return 0;
}
