/* Of test_supervised_languages.py: threads, vfork and posix_spawn. */
#include <errno.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *folder;
static int made;

static void *changes(void *number)
{
	char path[300], other[310];
	FILE *file;

	snprintf(path, sizeof(path), "%s/c%ld", folder, (long)number);
	snprintf(other, sizeof(other), "%s.2", path);
	file = fopen(path, "w");
	if (file && fputs("text", file) >= 0 && !fclose(file) && !rename(path, other) && !unlink(other))
		__sync_fetch_and_add(&made, 1);
	return 0;
}

int main(int argc, char **argv)
{
	char *echo[] = { "echo", "child", 0 }, *environment[] = { 0 };
	pthread_t threads[32];
	int pid, status;

	folder = argv[1];
	for (long i = 0; i < 32; i++)
		pthread_create(&threads[i], 0, changes, (void *)i);
	for (int i = 0; i < 32; i++)
		pthread_join(threads[i], 0);
	printf("changes %d\n", made);
	fflush(stdout);
	pid = vfork();
	if (!pid) {
		execv("/bin/echo", echo);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	if (!posix_spawn(&pid, "/bin/echo", 0, 0, echo, environment))
		waitpid(pid, &status, 0);
	printf("kept %s\n", !unlink(argv[2]) ? "removed" : errno == EPERM ? "EPERM" : "another error");
	return 0;
}
