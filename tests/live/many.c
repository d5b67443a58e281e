// Forks so many children, each of which connects to an address of its own: 127.NET.x.y. Static and small, because
// thousands of them wait at once. Usage: many NET PORT COUNT, then a line on standard input to begin. Prints how many
// connected, how many were refused with EPERM, and how many ended otherwise.
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int count = argc == 4 ? atoi(argv[3]) : 0, ok = 0, refused = 0, other = 0;
	char byte;

	if (!count || read(0, &byte, 1) != 1)
		return 2;
	for (int i = 0; i < count; i++) {
		pid_t pid = fork();

		if (pid < 0)
			other++;
		if (pid)
			continue;
		struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])) };
		int s = socket(AF_INET, SOCK_STREAM, 0);

		to.sin_addr.s_addr = htonl(127u << 24 | (unsigned int)atoi(argv[1]) << 16 | (unsigned int)(i + 1));
		_exit(s >= 0 && !connect(s, (struct sockaddr *)&to, sizeof(to)) ? 0 : errno);
	}
	for (int status; wait(&status) > 0;) {
		int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

		ok += code == 0;
		refused += code == EPERM;
		other += code != 0 && code != EPERM;
	}
	printf("%d %d %d\n", ok, refused, other);
	return 0;
}
