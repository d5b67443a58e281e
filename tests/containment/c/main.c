// SPDX-License-Identifier: Apache-2.0
/* `probe WORD ARGUMENTS...`: finds the word. Exit 97: there is none, or its arguments are too few. */
#include "probe.h"

int main(int argc, char **argv)
{
	const struct word *const tables[] = { path_words,   exec_words,	   file_words,	 descriptor_words,
					      ring_words,   network_words, tag_words,	 race_words,
					      attack_words, name_words,	   storm_words,	 swap_words,
					      other_words,  corner_words,  beyond_words, wire_words };

	for (size_t i = 0; argc > 1 && i < sizeof(tables) / sizeof(*tables); i++)
		for (const struct word *w = tables[i]; w->name; w++)
			if (!strcmp(w->name, argv[1]))
				return argc - 2 < w->least ? 97 : w->run(argc - 1, argv + 1);
	return 97;
}
