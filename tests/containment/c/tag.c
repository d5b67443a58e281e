// SPDX-License-Identifier: Apache-2.0
/* Rows 40 to 46: ways to stop belonging to a workload; in each, somebody reads the file in the end. */
#include "probe.h"

#include <linux/sched.h>
#include <sys/prctl.h>

#define IS(text) (!strcmp(how, text))

static const char *target;

/* The end of every way: reads, and says how that went. */
static void there(void)
{
	result(look(target));
	_exit(0);
}

static void *in_thread(void *unused)
{
	there();
	return 0;
}

static void *forks(void *unused)
{
	if (!fork())
		there();
	wait(0);
	return 0;
}

static void in_child(void)
{
	if (!fork())
		there();
}

static void into_group(const char *group)
{
	struct clone_args a = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = open(group, O_PATH) };

	if (!syscall(SYS_clone3, &a, sizeof(a)))
		there();
}

static void moved(const char *group)
{
	char path[500], pid[16];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	fd = open(path, O_WRONLY);
	snprintf(pid, sizeof(pid), "%d", getpid());
	if (write(fd, pid, strlen(pid)) < 0)
		_exit(3);
	in_child();
}

static void go(const char *how, const char *group)
{
	pthread_t thread;

	if (IS("nothing")) {
		there();
	} else if (IS("double fork")) { /* the grandchild has no parent here when it acts */
		if (!fork()) {
			if (fork())
				_exit(0);
			setsid();
			usleep(20000);
			there();
		}
	} else if (IS("setsid")) {
		if (!fork()) {
			setsid();
			there();
		}
	} else if (IS("subreaper")) {
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		if (!fork()) {
			in_child();
			_exit(0);
		}
	} else if (IS("CLONE_PARENT")) {
		if (!syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0))
			there();
	} else if (IS("clone3 into a cgroup")) {
		into_group(group);
	} else if (IS("cgroup")) {
		moved(group);
	} else if (IS("thread")) {
		pthread_create(&thread, 0, in_thread, 0);
		pthread_join(thread, 0);
	} else if (IS("fork in a thread")) {
		pthread_create(&thread, 0, forks, 0);
		pthread_join(thread, 0);
	} else if (IS("user")) {
		if (!fork()) {
			if (setgid(65534) || setuid(65534))
				_exit(3);
			there();
		}
	} else if (IS("exec")) {
		if (!fork())
			execl("/proc/self/exe", "probe", "leave", "nothing", target, "", NULL);
	} else { /* new namespaces: the flags */
		if (unshare(strtol(how, 0, 0)))
			_exit(3);
		in_child();
	}
}

/* leave HOW PATH GROUP: gets away somehow, then reads; waits until every process of it is gone */
static int leave_word(int argc, char **argv)
{
	int end[2];
	char byte;

	target = argv[2];
	if (pipe2(end, O_CLOEXEC))
		return 1;
	say("attempt\n");
	go(argv[1], argv[3]);
	close(end[1]);
	if (read(end[0], &byte, 1) < 0) /* end of file: they all have gone */
		return 1;
	while (wait(0) > 0)
		;
	return 0;
}

static void *nothing(void *unused)
{
	return 0;
}

/* threads N PATH: N short threads, then a child reads */
static int threads_word(int argc, char **argv)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (int i = atoi(argv[1]); i > 0; i--)
		if (pthread_create(&thread, &small, nothing, 0) || pthread_join(thread, 0))
			return 5;
	target = argv[2];
	say("attempt\n");
	in_child();
	wait(0);
	return 0;
}

/* tasks N GO PATH: N processes that are there at once, of which the last one reads; they end when GO is there */
static int tasks_word(int argc, char **argv)
{
	int number = atoi(argv[1]), end[2];
	char byte;

	if (pipe(end))
		return 1;
	for (int i = 1; i <= number; i++) {
		int pid = fork();

		if (pid < 0)
			return 5;
		if (pid)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (i == number)
			look(argv[3]);
		close(end[1]);
		for (;;)
			pause();
	}
	close(end[1]);
	if (read(end[0], &byte, 1) < 0) /* end of file: the last one has had its say, or is gone */
		return 1;
	say("made\n");
	wait_for(argv[2]);
	return 0;
}

static const char *go_file;

static void *waits_and_forks(void *unused)
{
	wait_for(go_file);
	if (!fork())
		there();
	wait(0);
	return 0;
}

/* older GO PATH: a thread that is there before the marks; when GO is there, it forks and the child reads */
static int older_word(int argc, char **argv)
{
	pthread_t thread;

	go_file = argv[1];
	target = argv[2];
	pthread_create(&thread, 0, waits_and_forks, 0);
	say("attempt\n");
	pthread_join(thread, 0);
	return 0;
}

/* settid PID PATH: a child with that very pid reads */
static int settid_word(int argc, char **argv)
{
	pid_t wanted = atoi(argv[1]);
	struct clone_args a = { .exit_signal = SIGCHLD, .set_tid = (unsigned long)&wanted, .set_tid_size = 1 };
	int pid;

	target = argv[2];
	say("attempt\n");
	pid = syscall(SYS_clone3, &a, sizeof(a));
	if (!pid)
		there();
	if (pid < 0)
		result(-1);
	wait(0);
	return 0;
}

/* again GO PATH: execs itself over and over; once GO is there, reads */
static int again_word(int argc, char **argv)
{
	if (access(argv[1], F_OK))
		return execl("/proc/self/exe", "probe", "again", argv[1], argv[2], NULL);
	say("attempt\n");
	result(look(argv[2]));
	return 0;
}

/* What the kernel doesn't have isn't refused. */
static int missing(int value)
{
	if (value < 0 && (errno == ENOENT || errno == EINVAL || errno == ENOTTY))
		errno = ENOSYS;
	return value;
}

static int seen_by_fanotify(const char *path)
{
	int group = syscall(SYS_fanotify_init, 0, O_RDONLY);

	if (group < 0)
		return missing(group);
	return syscall(SYS_fanotify_mark, group, 1 /* FAN_MARK_ADD */, 0x20ull /* FAN_OPEN */, AT_FDCWD, path);
}

static int child_in(unsigned long flags)
{
	int pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);

	if (!pid)
		_exit(0);
	return pid;
}

/* privilege HOW PATH: what a call does that has no hook of its own */
static int privilege_word(int argc, char **argv)
{
	const char *how = argv[1];

	say("attempt\n");
	if (IS("setns"))
		result(syscall(SYS_setns, open("/proc/self/ns/uts", O_RDONLY), 0));
	else if (IS("clone, mnt"))
		report(child_in(CLONE_NEWNS));
	else if (IS("clone, uts"))
		report(child_in(CLONE_NEWUTS));
	else if (IS("fspick"))
		result(syscall(433, AT_FDCWD, "/proc", 0));
	else if (IS("userfaultfd"))
		result(missing(syscall(SYS_userfaultfd, 0)));
	else if (IS("fanotify"))
		result(seen_by_fanotify(argv[2]));
	else if (IS("delete_module"))
		result(missing(syscall(SYS_delete_module, "dummy", O_NONBLOCK)));
	return 0;
}

const struct word tag_words[] = {
	{ "leave", 3, leave_word },	    { "threads", 2, threads_word },
	{ "tasks", 3, tasks_word },	    { "older", 2, older_word },
	{ "settid", 2, settid_word },	    { "again", 2, again_word },
	{ "privilege", 2, privilege_word }, { 0 },
};
