/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel structures that agentd reads, and only the fields it reads: CO-RE relocates each access against the running
 * kernel's BTF, so layout and order here mean nothing. A field that some kernel of the matrix lacks is guarded by
 * bpf_core_field_exists() at its use.
 */
#ifndef AGENTD_KERNEL_BPF_H
#define AGENTD_KERNEL_BPF_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next, *prev;
};
struct hlist_node {
	struct hlist_node *next, **pprev;
};
struct hlist_head {
	struct hlist_node *first;
};
struct qstr {
	u64 hash_len; /* low half: hash, high half: length */
	const unsigned char *name;
};
typedef struct {
	int counter;
} atomic_t;
struct seqcount {
	u32 sequence;
};
typedef struct seqcount seqcount_t;
struct seqcount_spinlock {
	seqcount_t seqcount;
};
typedef struct seqcount_spinlock seqcount_spinlock_t;

struct super_block;
struct bpf_local_storage;
struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};
struct inode {
	unsigned short i_mode;
	unsigned int i_flags;
	unsigned int i_nlink;
	u32 i_generation;
	unsigned long i_ino;
	struct super_block *i_sb;
	char *i_link;
	s64 i_ctime_sec; /* since 6.11 */
	u32 i_ctime_nsec;
};
struct inode___v66 { /* 6.6 to 6.10 */
	struct timespec64 __i_ctime;
};
struct inode___v65 {
	struct timespec64 i_ctime;
};
struct file_system_type {
	const char *name;
};
struct mount;
struct super_block {
	u32 s_dev;
	unsigned long s_flags;
	unsigned long s_magic;
	struct file_system_type *s_type;
	struct dentry *s_root;
	struct list_head s_mounts;
	struct unicode_map *s_encoding; /* with CONFIG_UNICODE */
};
struct super_block___v618 { /* since 6.18 */
	struct mount *s_mounts;
};
struct vm_area_struct {
	unsigned long vm_flags;
	void *anon_vma;
	struct file *vm_file;
};
struct iattr {
	unsigned int ia_valid;
};
struct dentry {
	unsigned int d_flags;
	seqcount_spinlock_t d_seq;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
	struct hlist_node d_sib; /* since 6.8 */
	struct hlist_head d_children;
};
struct qstr___parts { /* the same as hash_len: Linux 6.1 lets nobody load a union's whole */
	u32 hash;
	u32 len;
};
struct dentry___parts {
	struct qstr___parts d_name;
};
struct dentry___v67 { /* until 6.7 */
	struct list_head d_child;
	struct list_head d_subdirs;
};
struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};
struct mnt_namespace;
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct list_head mnt_mounts;
	struct list_head mnt_child;
	struct list_head mnt_instance; /* in s_mounts of the superblock */
	struct mnt_namespace *mnt_ns;
};
struct mount___v618 { /* since 6.18 */
	struct mount *mnt_next_for_sb;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	unsigned int f_mode;
	unsigned int f_flags;
	struct inode *f_inode;
	struct path f_path;
	void *private_data;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	atomic_t count;
	struct fdtable *fdt;
};
struct fs_struct {
	struct path root, pwd;
};
struct mm_struct {
	u64 *pgd; /* pgd_t is a structure of one word */
	unsigned long arg_start, arg_end;
	unsigned long env_start, env_end;
	struct file *exe_file;
};
struct ns_common {
	unsigned int inum;
};
struct pid_namespace {
	struct ns_common ns;
};
struct mnt_namespace {
	struct ns_common ns;
};
struct user_namespace {
	struct ns_common ns;
};
struct nsproxy {
	void *uts_ns;
	void *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	void *net_ns;
	void *cgroup_ns;
	void *time_ns_for_children;
};
typedef struct {
	u32 val;
} kuid_t;
struct cred {
	struct user_namespace *user_ns;
	kuid_t uid;
};
typedef struct {
	unsigned long sig[1];
} sigset_t;
struct sigpending {
	sigset_t signal;
};
struct rlimit {
	unsigned long rlim_cur;
};
struct pid {
	struct hlist_head tasks[4];
};
struct signal_struct {
	atomic_t live;
	struct pid *pids[4];
	struct sigpending shared_pending;
	struct rlimit rlim[16];
};
struct sigaction {
	void *sa_handler;
};
struct k_sigaction {
	struct sigaction sa;
};
struct kernfs_node {
	u64 id;
	const char *name;
};
struct cgroup;
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};
struct css_set {
	struct cgroup *dfl_cgrp;
};
struct task_struct {
	unsigned int flags;
	unsigned int personality;
	unsigned int ptrace;
	int exit_state;
	int pid, tgid;
	u64 start_boottime;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	const struct cred *cred;
	const struct cred *real_cred;
	struct css_set *cgroups;
	void *io_uring;
	struct bpf_local_storage *bpf_storage;
	struct hlist_node pid_links[4];
	struct sigpending pending;
};
struct proc_inode {
	struct pid *pid;
	struct inode vfs_inode;
};
struct linux_binprm {
	char buf[256]; /* how the file begins */
	struct file *file;
	const char *filename;
	const char *interp;
	struct mm_struct *mm; /* of the new program */
	unsigned long p; /* its stack so far: argv, envp, filename */
	int argc;
};
struct net {
	u64 net_cookie;
};
typedef struct {
	struct net *net;
} possible_net_t;
struct sock_common {
	unsigned short skc_family;
	u32 skc_rcv_saddr;
	u16 skc_num;
	possible_net_t skc_net;
	struct {
		union {
			u8 u6_addr8[16];
			u32 u6_addr32[4];
		} in6_u;
	} skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
	u16 sk_type;
};
struct socket {
	struct sock *sk;
	short type;
};
struct in_addr {
	u32 s_addr;
};
struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
};
struct sockaddr_in {
	struct in_addr sin_addr;
};
struct sockaddr_in6 {
	unsigned short sin6_family;
	u16 sin6_port;
	struct in6_addr sin6_addr;
};
struct msghdr {
	void *msg_name;
	void *msg_control;
	unsigned long msg_controllen;
};
struct unix_address {
	int len;
	struct {
		unsigned short sun_family;
		char sun_path[108];
	} name[0];
};
struct unix_sock {
	struct unix_address *addr;
	struct path path;
	struct sock *peer;
};
struct pt_regs {
	unsigned long bp, bx, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, sp;
};
struct thread_info {
	u32 status;
};
struct task_struct___x86 {
	struct thread_info thread_info;
};
enum pid_type {
	PIDTYPE_PID,
	PIDTYPE_TGID,
	PIDTYPE_PGID,
	PIDTYPE_SID,
};
struct bpf_iter_meta {
	struct seq_file *seq;
	u64 session_id, seq_num;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};
struct kernel_siginfo {
	int si_signo;
	int si_code;
};

#pragma clang attribute pop

/* Not relocated: the kernel finds this one by its name in the value of a map (since 6.18). */
struct bpf_task_work {
	u64 __opaque;
} __attribute__((aligned(8)));
struct bpf_map {
	u32 id; /* only the kind of the type matters: libbpf compares prototypes */
};
typedef int (*bpf_task_work_callback_t)(struct bpf_map *map, void *key, void *value);

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define FMODE_READ 1
#define FMODE_WRITE 2
#define FMODE_CREATED 0x100000
#define O_TRUNC 01000

/* Makes the compiler forget what it knows of a value, so that it keeps the mask that the verifier has to see. */
#define FORGET(value) asm volatile("" : "+r"(value))

/* BPF_CORE_READ() would relocate our own structures too if the pointer were an expression like w->dentry. */
#define KREAD(src, ...)                               \
	({                                            \
		typeof(src) ___ptr = (src);           \
		BPF_CORE_READ(___ptr, ##__VA_ARGS__); \
	})

/*
 * `value & mask` for a length that the verifier must see bounded. clang drops a mask that an earlier comparison makes
 * superfluous; Linux 6.1 and 6.12 forget that comparison when the value goes over the stack, or never saw it.
 */
static __always_inline u32 bounded(u32 value, u32 mask)
{
	asm volatile("" : "+r"(value));
	return value & mask;
}

#endif
