// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Which agent is it that begins here? Called by exec.bpf.c for every program that is in place, has not run an instruction,
 * and belongs to no workload, while the service's policy recognises processes (control.match).
 *
 * Asked is the agent `(match)`, which is no agent: its tables answer with the number of the first rule that matches (as
 * `toolop`), for an object an operation: the cgroup's path (read), the program's path (exec; and create, where the task
 * sees the host's own mounts, for names that a container could give to what it likes), `uid:N` of the real user (ptrace),
 * and each NAME=value of the environment (write). The smallest number of all decides; what it means stands in the map
 * `matches`. A rule about several variables matches when all of them were seen.
 *
 * Whether a container's labels match no program here can know: its engine does, and user space asks it. `delete` is asked
 * with the cgroup's path, whether that is a container's at all; what was found out stands in `containers`. Where nothing
 * stands yet the program gets the mark of `(match)` itself, by which it may do nothing, and is stopped; user space gives
 * it its own mark, or none, and lets it go (agentd/daemon/labels.py). With nobody there it stays so.
 *
 * Loops: 64 cgroups above one another; 32,768 pieces of 255 bytes of the environment; 512 rules.
 * Fails: whoever can't be told apart (a table or a buffer that is always there isn't), or can't be marked, is killed before its
 * first instruction. A program without a path (a memfd's has one, `anon:`; one reached through another mount namespace has
 * none) is no program that a rule names.
 * Trusted: the kernel's cgroup, bprm, credentials. The environment is what the one who starts the program says.
 */
#include "lib/act.bpf.h"

#define NO_RULE AGENTD_NO_MATCH
#define ENV_PIECES 32768
#define ENV_PIECE 256

struct cgroup_loop {
	struct scratch *s;
	struct cgroup *cg;
};

static long cgroup_step(u32 i, struct cgroup_loop *l)
{
	struct cgroup_subsys_state *up = KREAD(l->cg, self.parent);
	long n;

	if (!up) { /* the root */
		l->s->up.state = WALK_DONE;
		return 1;
	}
	n = bpf_probe_read_kernel_str(l->s->component, ENV_PIECE, KREAD(l->cg, kn, name));
	if (n <= 1 || n > ENV_PIECE || !prepend(l->s, n - 1)) {
		l->s->up.state = WALK_FAILED;
		return 1;
	}
	l->cg = KREAD(up, cgroup);
	return 0;
}

/* The path of the task's cgroup below the root of the v2 hierarchy, in scratch->path. False: not complete. */
static __noinline bool cgroup_path(struct scratch *s, struct task_struct *task)
{
	struct cgroup_loop l = { .s = s, .cg = KREAD(task, cgroups, dfl_cgrp) };

	s->up.off = AGENTD_PATH_MAX;
	s->up.state = WALKING;
	if (!l.cg)
		return false;
	bpf_loop(CGROUP_DEPTH + 1, cgroup_step, &l, 0);
	if (s->up.state != WALK_DONE)
		return false;
	if (s->up.off == AGENTD_PATH_MAX) {
		word_set(s, "/");
		return true;
	}
	s->path_off = s->up.off;
	return true;
}

static __always_inline void uid_word(struct scratch *s, u32 uid)
{
	u32 off = AGENTD_PATH_MAX;

	for (int i = 0; i < 10; i++) {
		off--;
		s->path[off & (AGENTD_PATH_MAX - 1)] = '0' + uid % 10;
		uid /= 10;
		if (!uid)
			break;
	}
	off -= 4;
	s->path[off & (AGENTD_PATH_MAX - 1)] = 'u';
	s->path[(off + 1) & (AGENTD_PATH_MAX - 1)] = 'i';
	s->path[(off + 2) & (AGENTD_PATH_MAX - 1)] = 'd';
	s->path[(off + 3) & (AGENTD_PATH_MAX - 1)] = ':';
	s->path_off = off;
}

struct matching {
	u64 have; /* variables seen, a bit each */
	u64 at, end; /* of the environment, user addresses */
	u32 slot;
	u32 agent;
	u32 best; /* the smallest number of a rule that matches */
	u32 tail; /* what comes next is the rest of a variable that is too long */
	u32 failed;
	u32 label; /* the first rule about labels, if this is a container */
};

static __always_inline struct agentd_match *match_entry(struct scratch *s, u32 number)
{
	u32 key = ((s->set - 1) & 1) * AGENTD_MATCHES + (number & (AGENTD_MATCHES - 1));

	return bpf_map_lookup_elem(&matches, &key);
}

/* What do the rules say of the object in scratch->path? A function of its own: verified once. */
__noinline int match_object(struct matching *m, u32 op)
{
	struct agentd_match *entry;
	struct scratch *s;
	struct verdict *v;

	if (!m)
		return 0;
	s = scratch_get(m->slot);
	if (!s) {
		m->failed = 1;
		return 0;
	}
	v = &s->v[0];
	path_verdict(v, m->slot, m->agent, op);
	if (v->outcome == NO_RULE) {
		m->failed = 1;
		return 0;
	}
	if (v->toolop >= AGENTD_MATCHES)
		return 0;
	entry = match_entry(s, v->toolop);
	if (!entry) {
		m->failed = 1;
		return 0;
	}
	if (!(entry->flags & AGENTD_MATCH_USED))
		return 0;
	if (entry->flags & AGENTD_MATCH_VARIABLE)
		m->have |= 1ull << (entry->bit & 63);
	else if (entry->flags & AGENTD_MATCH_LABEL)
		m->label = v->toolop;
	else if (v->toolop < m->best)
		m->best = v->toolop;
	return 0;
}

static long env_piece(u32 i, struct matching *m)
{
	struct scratch *s = scratch_get(m->slot);
	bool rest = m->tail;
	u32 off;
	long n;

	if (!s || m->at >= m->end)
		return 1;
	n = bpf_probe_read_user_str(s->component, ENV_PIECE, (void *)m->at);
	if (n <= 0) {
		m->failed = 1;
		return 1;
	}
	if (n >= ENV_PIECE) { /* cut: a rule's variable is shorter */
		m->at += ENV_PIECE - 1;
		m->tail = 1;
		return 0;
	}
	m->at += n;
	m->tail = 0;
	if (rest || n <= 1)
		return 0;
	off = AGENTD_PATH_MAX - (n - 1);
	bpf_probe_read_kernel(&s->path[off & (AGENTD_PATH_MAX - 1)], bounded(n - 1, ENV_PIECE - 1), s->component);
	s->path_off = off;
	match_object(m, AGENTD_OP_WRITE);
	return m->failed ? 1 : 0;
}

/* A rule whose variables were all seen. */
static long match_variables(u32 i, struct matching *m)
{
	struct scratch *s = scratch_get(m->slot);
	struct agentd_match *entry = s ? match_entry(s, i) : NULL;

	if (!entry) {
		m->failed = 1;
		return 1;
	}
	if (!(entry->flags & AGENTD_MATCH_USED) || i >= m->best)
		return 1;
	if (entry->variables && (m->have & entry->variables) == entry->variables)
		m->best = i;
	return 0;
}

static __always_inline void tell_matched(u32 type, const struct agentd_tag *tag, u32 rule, u32 generation)
{
	struct agentd_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) { /* the mark says the rest when the tasks are counted */
		stat_add(AGENTD_STAT_LOST_EVENTS, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->type = type;
	e->syscall = -1;
	e->time = bpf_ktime_get_boot_ns();
	e->reason = rule;
	e->generation = generation;
	event_process(e, tag);
	bpf_ringbuf_submit(e, 0);
}

/* Is it known what the labels of the container say? If not, the program waits until somebody has read them. */
static __noinline bool labels_known(struct scratch *s, struct matching *m)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_container *known;
	struct agentd_tag fresh = {}, *tag;
	struct agentd_control *c = control_get();
	u64 id = KREAD(task, cgroups, dfl_cgrp, kn, id);

	known = bpf_map_lookup_elem(&containers, &id);
	if (known && known->generation == s->v[0].generation) {
		if (known->rule < m->best)
			m->best = known->rule;
		return true;
	}
	fresh.agent = m->agent;
	fresh.flags = AGENTD_TAG_ASKED;
	if (c)
		fresh.workload = AGENTD_MATCHED | (__sync_fetch_and_add(&c->next_matched, 1) & (AGENTD_MATCHED - 1));
	tag = mark(task, &fresh);
	if (!tag) {
		m->failed = 1;
		return true;
	}
	if (tag->workload != fresh.workload) /* `agentd tag` was quicker */
		return false;
	stat_add(AGENTD_STAT_FORKS, 1);
	if (bpf_send_signal(SIGSTOP)) {
		m->failed = 1;
		return true;
	}
	tell_matched(AGENTD_EVENT_ASKED, &fresh, m->label,
		     s->v[0].generation); /* then: a SIGCONT takes the SIGSTOP back */
	return false;
}

/* A frame of its own: while a path is resolved, none of it is on the stack. */
static __noinline void match_act(struct scratch *s, struct matching *m)
{
	struct agentd_control *c = control_get();
	struct agentd_match *entry;
	struct agentd_tag fresh = {}, *tag;

	if (c && !m->failed && m->best == NO_RULE)
		return;
	entry = match_entry(s, m->best);
	if (m->failed || !c || !entry) {
		stat_add(AGENTD_STAT_UNMATCHED, 1);
		bpf_send_signal(SIGKILL);
		return;
	}
	if (entry->flags & AGENTD_MATCH_EXEMPT)
		return;
	fresh.agent = entry->agent;
	if (entry->flags & AGENTD_MATCH_REFUSE) {
		tell_matched(AGENTD_EVENT_UNMATCHED, &fresh, m->best, s->v[0].generation);
		bpf_send_signal(SIGKILL);
		return;
	}
	fresh.workload = AGENTD_MATCHED | (__sync_fetch_and_add(&c->next_matched, 1) & (AGENTD_MATCHED - 1));
	tag = mark(bpf_get_current_task_btf(), &fresh);
	if (!tag) {
		stat_add(AGENTD_STAT_UNTRACKED, 1);
		bpf_send_signal(SIGKILL);
		return;
	}
	if (tag->workload != fresh.workload) /* `agentd tag` was quicker */
		return;
	stat_add(AGENTD_STAT_FORKS, 1); /* see TaskMarks.none_left() */
	tell_matched(AGENTD_EVENT_MATCHED, &fresh, m->best, s->v[0].generation);
}

/* Does the current task see the mounts that PID 1 sees? A frame of its own, as above. */
static __noinline bool sees_host(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_control *c = control_get();

	return c && KREAD(task, nsproxy, mnt_ns, ns.inum) == c->host_mounts;
}

/* Of a task without a mark. */
static __noinline void match_program(struct linux_binprm *bprm, u32 match)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct matching m = { .agent = match - 1, .best = NO_RULE, .label = NO_RULE };
	struct agentd_control *c = control_get(); /* once: Linux 6.1 wants each look-up checked */
	struct scratch *s;

	m.slot = scratch_take();
	s = scratch_get(m.slot);
	if (m.slot == NO_SLOT || !s) {
		stat_add(AGENTD_STAT_UNMATCHED, 1);
		bpf_send_signal(SIGKILL);
		return;
	}
	if (cgroup_path(s, task)) {
		match_object(&m, AGENTD_OP_READ);
		match_object(&m, AGENTD_OP_DELETE);
	} else {
		m.failed = 1;
	}
	if (path_of_file(m.slot, KREAD(bprm, file))) {
		match_object(&m, AGENTD_OP_EXEC);
		if (sees_host())
			match_object(&m, AGENTD_OP_CREATE);
	}
	uid_word(s, KREAD(task, cred, uid.val));
	match_object(&m, AGENTD_OP_PTRACE);
	m.at = KREAD(task, mm, env_start);
	m.end = KREAD(task, mm, env_end);
	if (c && c->match_variables) {
		bpf_loop(ENV_PIECES, env_piece, &m, 0);
		if (m.at < m.end)
			m.failed = 1;
		bpf_loop(AGENTD_MATCHES, match_variables, &m, 0);
	}
	if (m.failed || m.label >= m.best || labels_known(s, &m))
		match_act(s, &m);
	scratch_give(m.slot);
}

/* A program that begins outside any workload. PID 1 is nobody's, whatever it executes. */
static __always_inline void match_begin(struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct agentd_control *c = control_get();

	if (!c || !c->match || c->epoch != constants.epoch || task->tgid == 1)
		return;
	if (bpf_task_storage_get(&tags, task, 0, 0))
		return;
	match_program(bprm, c->match);
}
