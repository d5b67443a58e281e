// SPDX-License-Identifier: Apache-2.0
/* A program whose run can be seen: its last argument is a file that it makes. As a library: $MARK is. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef LIBRARY
__attribute__((constructor)) static void loaded(void)
{
	const char *mark = getenv("MARK");

	if (mark)
		close(open(mark, O_CREAT | O_WRONLY, 0644));
}
#else
/* As `if`: only if an argument begins with --forbidden. For arguments that change under way. */
int main(int argc, char **argv)
{
	const char *mark = argv[argc - 1];

	if (!strcmp(argv[0], "if")) {
		int found = 0;

		for (int i = 1; i < argc - 1; i++)
			found |= !strncmp(argv[i], "--forbidden", 11);
		if (!found)
			return 0;
	}
	if (mark[0] != '/') /* a descriptor's number: read it */
		return 3;
	int fd = open(mark, O_CREAT | O_WRONLY, 0644);

	return fd < 0 ? 3 : 0;
}
#endif
