// SPDX-License-Identifier: Apache-2.0
/* Row 24: effects asked for through io_uring, which pass no system call of their own. Source: io_uring(7), io_uring_setup(2). */
#include "probe.h"

#include <linux/io_uring.h>

#define SQPOLL 1
#define ASYNC 2 /* by a worker thread of the kernel */
#define FIXED 4 /* the descriptor is registered */

struct ring {
	int fd;
	struct io_uring_params p;
	char *sq;
	struct io_uring_sqe *entries;
};

static int ring_open(struct ring *r, int how)
{
	size_t size;

	memset(r, 0, sizeof(*r));
	if (how & SQPOLL) {
		r->p.flags = IORING_SETUP_SQPOLL;
		r->p.sq_thread_idle = 2000;
	}
	r->fd = syscall(SYS_io_uring_setup, 8, &r->p);
	if (r->fd < 0)
		return -1;
	size = r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe) + 4096;
	r->sq = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
	r->entries = mmap(0, r->p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
	return r->sq == MAP_FAILED || r->entries == MAP_FAILED ? -1 : 0;
}

/* Submits one request and waits for its result, with errno set. */
static int ring_ask(struct ring *r, const struct io_uring_sqe *request, int how)
{
	unsigned int *tail = (void *)(r->sq + r->p.sq_off.tail), *array = (void *)(r->sq + r->p.sq_off.array);
	unsigned int *head = (void *)(r->sq + r->p.cq_off.head), *end = (void *)(r->sq + r->p.cq_off.tail);
	struct io_uring_cqe *done = (void *)(r->sq + r->p.cq_off.cqes);
	unsigned int slot = *tail & (r->p.sq_entries - 1);
	int value;

	r->entries[slot] = *request;
	if (how & ASYNC)
		r->entries[slot].flags |= IOSQE_ASYNC;
	array[slot] = slot;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (how & SQPOLL) {
		if (syscall(SYS_io_uring_enter, r->fd, 0, 0, IORING_ENTER_SQ_WAKEUP, 0, 0) < 0)
			return -1;
	} else if (syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0) {
		return -1;
	}
	for (int i = 0; i < 5000 && __atomic_load_n(end, __ATOMIC_ACQUIRE) == *head; i++)
		usleep(1000);
	if (__atomic_load_n(end, __ATOMIC_ACQUIRE) == *head) {
		errno = ETIMEDOUT;
		return -1;
	}
	value = done[*head & (r->p.cq_entries - 1)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	if (value < 0) {
		errno = -value;
		return -1;
	}
	return value;
}

/* setup: only the ring */
static int setup_word(int argc, char **argv)
{
	struct ring r;

	ATTEMPT(ring_open(&r, 0) ? -1 : r.fd);
	return 0;
}

/* ring HOW OPERATION OBJECT [OBJECT]: HOW is a sum of 1 SQPOLL, 2 a worker, 4 registered files */
static int ring_word(int argc, char **argv)
{
	int how = atoi(argv[1]), value, fd;
	struct io_uring_sqe e = { .fd = AT_FDCWD };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const char *op = argv[2];
	char text[100] = "data ";
	struct ring r;

	say("attempt\n");
	if (ring_open(&r, how)) {
		result(-1);
		return 0;
	}
	if (!strcmp(op, "open")) {
		e.opcode = IORING_OP_OPENAT;
		e.addr = (unsigned long)argv[3];
		if (how & FIXED) {
			int none = -1;

			if (syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_FILES, &none, 1))
				return 1;
			e.file_index = 1;
		}
	} else if (!strcmp(op, "unlink")) {
		e.opcode = IORING_OP_UNLINKAT;
		e.addr = (unsigned long)argv[3];
	} else if (!strcmp(op, "rename") || !strcmp(op, "link")) {
		e.opcode = op[0] == 'r' ? IORING_OP_RENAMEAT : IORING_OP_LINKAT;
		e.addr = (unsigned long)argv[3];
		e.addr2 = (unsigned long)argv[4];
		e.len = AT_FDCWD;
	} else { /* connect, send */
		to.sin_port = htons(atoi(argv[3]));
		e.opcode = op[0] == 'c' ? IORING_OP_CONNECT : IORING_OP_SENDMSG;
		e.fd = socket(AF_INET, op[0] == 'c' ? SOCK_STREAM : SOCK_DGRAM, 0);
		e.addr = (unsigned long)&to;
		e.off = sizeof(to);
		if (op[0] == 's') {
			static struct iovec part = { "hello", 5 };
			static struct msghdr message;

			message = (struct msghdr){ &to, sizeof(to), &part, 1 };
			e.addr = (unsigned long)&message;
			e.off = 0;
			e.len = 1;
		}
	}
	fd = value = ring_ask(&r, &e, how);
	result(value);
	if (e.opcode == IORING_OP_OPENAT && value >= 0) {
		if (how & FIXED) { /* read it through the ring, too */
			struct io_uring_sqe get = { .opcode = IORING_OP_READ,
						    .flags = IOSQE_FIXED_FILE,
						    .addr = (unsigned long)(text + 5),
						    .len = 90 };

			value = ring_ask(&r, &get, how);
			if (value > 0) {
				strcpy(text + 5 + value, "\n");
				say(text);
			}
		} else {
			show(fd);
		}
	}
	return 0;
}

const struct word ring_words[] = {
	{ "setup", 0, setup_word },
	{ "ring", 3, ring_word },
	{ 0 },
};
