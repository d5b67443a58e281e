/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The work buffer of a program, and what it is made of: what is too large for the stack (see the map scratch in maps.bpf.h). */
#ifndef AGENTD_BUFFER_BPF_H
#define AGENTD_BUFFER_BPF_H

#include "../abi.h"
#include "kernel.bpf.h"

#define SCRATCH_SLOTS 64 /* a power of two; enough for 64 programs preempted or running at once */
#define SCRATCH_MASK (SCRATCH_SLOTS - 1)
#define NAME_SLACK 256 /* a component is at most 255 bytes: lets a masked offset plus a component stay inside */
#define DATA_MAX (AGENTD_PATH_MAX * 4)

/*
 * The state of the loops stands in the buffer and not on the stack: the verifier takes what it reads from a map as
 * unknown, looks at the body of each loop once, and does not unroll it over values it knows.
 */
struct up_walk {
	struct dentry *dentry;
	struct vfsmount *mnt;
	u32 off;
	u32 state;
	u32 leaf; /* where the last component stands with its slash, if the walk began with one; 0: it didn't */
	u32 unused;
};

struct down_walk {
	struct dentry *dentry;
	struct vfsmount *mnt;
	struct dentry *root_dentry;
	struct vfsmount *root_mnt;
	struct dentry *found;
	struct mount *found_mount;
	void *cursor; /* list node of the child being looked at */
	void *list_end;
	u32 pos;
	u32 component; /* start of the component in name[] */
	u32 component_len;
	u32 links;
	u32 state;
	u8 follow; /* also a symlink as the last component */
	u8 last_missing; /* done, and the last component is a name without an object in `dentry` */
	u8 unused[2];
};

struct dfa_run {
	u32 base; /* of the agent's region */
	u32 classes, states, comb; /* in the arena, in bytes */
	u32 state;
	u32 pos, end; /* in scratch->path; end <= AGENTD_PATH_MAX */
	u64 hash[2];
};

/* Reading one name out of a message (dns.bpf.c). */
struct wire_name {
	u32 pos;
	u32 end; /* where the message goes on behind the name; 0: not known yet */
	u32 below; /* a pointer must lead below this: so no chain of them is endless */
	u32 left; /* bytes left of the label */
	u32 len; /* as text */
	u8 state; /* READING, WHOLE, BAD */
	u8 keep; /* write the text to scratch->path[NAME_AT] */
	u8 odd; /* has a byte that no host name has */
	u8 unused;
	u64 hash[2]; /* of the lower-cased labels with their lengths */
};

struct answer {
	u64 addresses[2]; /* of one record, as in the maps */
	u32 ttl;
	u32 unused;
};

/* A message, in scratch->name[0]. */
struct message {
	u32 len;
	u32 at; /* the record being read */
	u32 type; /* asked for */
	u32 ttl; /* the least of the aliases passed */
	u32 found; /* answers, in scratch->name[1] */
	u32 failed;
	u64 owner[2]; /* hash of the name whose records count now */
};

/* The names of the address in a host key. */
struct names_run {
	struct agentd_name_key key;
	struct agentd_name_slot slot; /* the copy that is looked at, or the one that will be written */
	u64 hash[2]; /* of the key up to the port */
	u64 rank; /* of the best outcome so far */
	u64 kept; /* `check` of the slot it came from; 0: of none */
	u32 state; /* of the host automaton, behind the port */
	u32 outcome;
	u32 name_class;
	u32 len; /* of the name that was judged by; it stands in scratch->path behind the key */
};

struct args_run {
	u64 at, end; /* user addresses */
	u64 pgd; /* of the address space they are in; 0: the current one */
	u64 hash[2]; /* of all arguments, argv[0] too */
	u32 argc; /* where they end */
	u32 kept; /* bytes of them in scratch->name[1] */
	u32 start; /* state of the automaton */
	u32 index; /* of the argument being read */
	u32 masks; /* absolute word index of arg_masks */
	u32 list; /* of a library call: absolute word index of its candidates */
	u32 unused;
	u32 failed; /* not all arguments were read */
};

/* Reading SQL (lib/sql.bpf.h). */
struct sql_run {
	u8 language; /* enum agentd_sql */
	u8 state;
	u8 depth; /* of nested comments */
	u8 last; /* byte given out */
	u8 run; /* bytes of a word that stand there, 2 at most */
	u8 unused[3];
	u32 n; /* bytes that one step has given out: at most three */
	u8 out[4];
};

/* Looking through the text of a library call (text.bpf.c); where it stands and how far it is read is in args_run. */
struct text_run {
	u32 n; /* automata */
	u32 out; /* bytes in scratch->name[0] */
	u32 pos;
	u32 read; /* bytes of the piece that belong to the text */
	u32 automaton; /* the one that runs */
	u32 flags; /* AGENTD_CALLED_* */
	u32 ended; /* the NUL of a string was seen */
	u32 agent, class, generation; /* whose automata these are */
	u32 code; /* bytes of the function's code (lib/nested.bpf.h); 0: not known */
	struct agentd_called whole; /* the call that this one may go on with (lib/stream.bpf.h) */
	struct sql_run sql;
	struct dfa_run dfa[AGENTD_TEXTS_MAX];
	u32 masks[AGENTD_TEXTS_MAX]; /* absolute word indices */
};

/* What execve has made ready, of a program that is not in place yet. */
struct new_program {
	u64 pgd; /* of its address space */
	u64 args, args_end; /* argv[0..argc), and what its stack could reach to */
	u32 argc;
	u32 unused;
};

struct verdict {
	u32 outcome; /* index in the agent's table */
	u32 generation;
	u32 rule;
	u32 toolop;
	u32 timeout;
	u8 decision, action, risk, unresolved;
};

struct emission {
	u32 type, flags, op, point, guarantee, action;
	s32 syscall;
	u64 hold_id;
	u64 key[2];
	u32 object_off, object_len; /* in scratch->path */
	u32 argv_kept; /* bytes of the new program's arguments in scratch->name[1]; 0: the current program's are told */
	bool details; /* exe and argv too */
	bool fresh; /* there was no count of it a moment ago */
};

enum memory_kind {
	MEMORY_READ = 0,
	MEMORY_WRITE = 1,
	MEMORY_EXEC = 2,
	MEMORY_CODE = 3, /* mapped as code */
	MEMORY_KINDS = 4,
};
#define MEMORY_SETS 8192 /* powers of two: of inodes, */
#define FOLDER_SETS 2048 /* of folders, */
#define LEAVES 16384 /* and of names in folders */
#define FOLDER_PATH 256 /* more than the longest path of a folder that is kept */
#define LEAF_WORDS 8 /* of eight bytes: names up to 63 */
#define READINGS 512 /* of names that were judged lately */

/* What an entry depends on (memory.bpf.h). */
struct memory_place {
	u32 version; /* odd while it is written */
	u32 agent;
	u32 generation; /* of its policy; 0: nothing is here */
	u32 epoch;
	u32 renames, mounts; /* counts of rename_lock and mount_lock before the walk */
	u64 inode, number; /* its address, its number */
	u64 mnt, dentry, parent, ns; /* addresses */
	u64 name; /* its hash and length */
	u32 inode_generation;
	u32 unused;
};
struct memory_way {
	struct memory_place place;
	u32 hits[MEMORY_KINDS]; /* numbers in the map `hits`; 0: not remembered */
};
struct memory {
	struct memory_way way[2];
};
struct folder_way {
	struct memory_place place;
	u64 stamp; /* what is kept of names in it is kept under this */
	u32 len; /* of its path plus one; 0: nothing is here */
	u32 path_state, rules_state; /* where the automata stood behind it */
	u32 unused;
	u64 hash[2];
	union {
		char path[FOLDER_PATH];
		u64 path_words[FOLDER_PATH / 8];
	};
	u64 unused2; /* a word that begins in the path ends in this structure */
};
struct folder {
	struct folder_way way[2];
};
#define DESTINATIONS 4096
struct destination { /* that may be reached, or bound to, under a policy without names of hosts */
	u32 version; /* odd while it is written */
	u32 agent;
	u32 generation; /* of its policy; 0: nothing is here */
	u32 epoch;
	u64 address[2];
	u32 what; /* operation, family, kind of socket */
	u32 port; /* in network order */
	u32 hit; /* number in the map `hits` */
	u32 unused;
};
struct leaf {
	u32 version;
	u32 op; /* and the length of the name << 8 */
	u64 stamp; /* 0: nothing is here */
	u64 name[LEAF_WORDS]; /* padded with zeros */
	u32 hit; /* number in the map `hits` */
	u32 unused;
};

struct reading { /* what the automata said of a name in a folder: the same for every operation on it but exec */
	u32 version;
	u32 len; /* of the name */
	u64 stamp; /* of its folder; 0: nothing is here */
	u32 class, rules_class;
	u64 hash[2];
	u64 name[LEAF_WORDS];
};

/* What a walk was made under, and where the automata stood before the last component. */
struct walked {
	u64 mnt;
	u32 generation; /* 0: nothing of it may be remembered */
	u32 renames, mounts;
	u32 len; /* before the last component; with NO_PREFIX: not known */
	u32 path_state, rules_state;
	u64 hash[2];
	u64 stamp; /* of its folder; 0: names in it can't be remembered */
	u32 way; /* where it is kept */
	u32 epoch; /* memory_time() before the walk */
};
#define NO_PREFIX 0xffffffffu

/* Of the checking mode (check.bpf.h): how things stood before memory was asked, and what it said. */
struct checking {
	u32 renames, mounts, generation, epoch;
	u32 hits[MEMORY_KINDS];
	struct agentd_count_key said;
};

/* What an LSM hook judges: a name, as the kernel holds it. */
struct target {
	u32 op;
	u32 node; /* a device node */
	u64 mnt, dentry; /* kernel pointers, as numbers */
	u64 hash[2]; /* keyed hash of its path, when it was judged */
	u32 off, len; /* name_compose(): its path in scratch->path; len 0: it isn't there */
};

/* A folder as a name in it sees it. */
struct folder_seen {
	u64 stamp; /* of what is kept there, when it counts (or would, but for the count of renames); else 0 */
	u32 renames;
	u32 number;
};

/* names_recalled(): what is asked, and what was seen on the way. */
struct recall {
	u32 ops; /* ONE_NAME, TWO_NAMES */
	u32 generation;
	u32 mounts, epoch; /* of who asks (opened.bpf.h) */
	struct folder_seen look; /* at the folder of the first name; its stamp is 0: it doesn't count now */
};

#define PLACES 8 /* mounts that show one file in one namespace; more: unresolved */

/* The mounts through which a dentry can be seen (mounts.bpf.c). */
struct mount_walk {
	struct dentry *sought;
	struct dentry *at; /* on the way up from it; NULL: the next mount is due */
	struct mount *mount; /* that is being looked at */
	struct mount *internal; /* one of the kernel's own */
	void *next; /* list node, or mount since 6.18 */
	void *end;
	u64 place[PLACES]; /* struct vfsmount */
	u32 found;
	u32 state;
};

struct scratch {
	u32 busy;
	u32 set; /* which of the agent's two table sets this decision reads, plus one; 0: not chosen yet */
	u32 path_off; /* the resolved object is path[path_off .. AGENTD_PATH_MAX) */
	u32 name_cur; /* which of name[] holds what is left to walk */
	u32 name_len;
	s32 nr; /* the system call that trace.bpf.c looks at */
	u32 resolver; /* host_verdict(): the number of the resolver that the key is; 0: of none */
	u64 netns; /* cookie of the socket's network namespace; 0: names are not looked at */
	u64 hash[2]; /* keyed hash of the object */
	struct up_walk up;
	struct down_walk down;
	struct mount_walk mounts;
	struct dfa_run dfa;
	struct dfa_run
		rules; /* the second automaton of a path; only its position in the tables and its state are used */
	u32 rules_class; /* path_class(): what it said */
	u32 op; /* that is judged by it */
	u32 sleeper; /* the workload whose judgement may sleep in here; 0: none */
	u32 unused;
	struct args_run args;
	struct new_program program;
	struct text_run text;
	struct wire_name wire;
	struct message message;
	struct names_run names;
	struct verdict v[2];
	struct target target[2];
	struct walked walked[2];
	struct recall seen; /* of the first target's folder, just now */
	struct checking checking;
	struct walked kept;
	u32 split; /* path_class(): note the states before this place in walked[look]; 0: don't */
	u32 look; /* which target is being looked at */
	u32 hit; /* count_operation(): where this operation is counted when it is remembered; 0: it isn't, as the first of its kind */
	u32 target_hit[2]; /* the same for each target */
	u32 unused3;
	u32 targets; /* how many of them the LSM hook of this call has; 0: its object is no file */
	u32 unused2;
	struct emission m;
	struct agentd_count_key count_key;
	struct agentd_count count_fresh;
	u32 masks[AGENTD_ARG_WORDS]; /* argument groups seen so far */
	char path[AGENTD_PATH_MAX + NAME_SLACK];
	char name[2][AGENTD_PATH_MAX + NAME_SLACK];
	union {
		char component[NAME_SLACK];
		u64 component_words[NAME_SLACK / 8];
	};
	union { /* the component that is looked for, padded with zeros */
		char wanted[NAME_SLACK];
		u64 wanted_words[NAME_SLACK / 8];
	};
	struct agentd_event event;
	char data[DATA_MAX + 2 * AGENTD_PATH_MAX]; /* object, exe, argv of the event */
};

#endif
