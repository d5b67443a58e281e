// SPDX-License-Identifier: Apache-2.0
/*
 * A program without a library: its last argument is a file that it makes. Also one that wants it as its dynamic loader, in
 * whose place anything can stand.
 */
__attribute__((used)) static void begin(long *stack)
{
	const char *mark = ((const char **)(stack + 1))[stack[0] - 1];
	long value = 2; /* open(mark, O_CREAT | O_WRONLY, 0644) */

	__asm__ volatile("syscall" : "+a"(value) : "D"(mark), "S"(0101), "d"(0644) : "rcx", "r11", "memory");
	__asm__ volatile("syscall" : : "a"(60L), "D"(value < 0) : "rcx", "r11", "memory");
}

__attribute__((naked)) void _start(void)
{
	__asm__("mov %rsp, %rdi; call begin; hlt");
}
