/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What ioctl(2) changes through a descriptor that was opened to read, and the one that opens a file: by their requests.
 * Sources: linux/fs.h, linux/btrfs.h, linux/fsverity.h, linux/msdos_fs.h; fs/xfs/libxfs/xfs_fs.h, whose 32-bit forms have
 * requests of their own. The seccomp filter of `agentd run` has the same list (agentd/kernel/seccomp.py).
 */
#ifndef AGENTD_IOCTLS_BPF_H
#define AGENTD_IOCTLS_BPF_H

#include "kernel.bpf.h"

#define FS_IOC_SETFLAGS 0x40086602
#define FS_IOC32_SETFLAGS 0x40046602
#define FS_IOC_FSSETXATTR 0x401c5820
#define FS_IOC_ENABLE_VERITY 0x40806685
#define FAT_IOCTL_SET_ATTRIBUTES 0x40047211
#define XFS_IOC_OPEN_BY_HANDLE 0xc038586b
#define XFS_IOC_OPEN_BY_HANDLE_32 0xc01c586b
#define XFS_IOC_ATTRMULTI_BY_HANDLE 0x4048587b
#define BTRFS_IOC_SNAP_CREATE 0x50009401
#define BTRFS_IOC_SUBVOL_CREATE 0x5000940e
#define BTRFS_IOC_SNAP_DESTROY 0x5000940f
#define BTRFS_IOC_SNAP_CREATE_V2 0x50009417
#define BTRFS_IOC_SUBVOL_CREATE_V2 0x50009418
#define BTRFS_IOC_SNAP_DESTROY_V2 0x5000943f

/* Attributes of the descriptor's own file. */
static __always_inline bool sets_attributes(u32 request)
{
	return request == FS_IOC_SETFLAGS || request == FS_IOC32_SETFLAGS || request == FS_IOC_FSSETXATTR ||
	       request == FS_IOC_ENABLE_VERITY || request == FAT_IOCTL_SET_ATTRIBUTES;
}

#define FIFREEZE 0xc0045877
#define FITHAW 0xc0045878
#define FS_IOC_SHUTDOWN 0x8004587d
#define TIOCSTI 0x5412
#define TIOCLINUX 0x541c
#define TIOCVHANGUP 0x5437
#define FIOSETOWN 0x8901
#define SIOCSPGRP 0x8902

/* Stops the descriptor's whole file system. */
static __always_inline bool stops_all(u32 request)
{
	return request == FIFREEZE || request == FITHAW || request == FS_IOC_SHUTDOWN;
}

/* Types on a terminal, for whoever reads there (TIOCLINUX can paste), or takes it from all who have it. */
static __always_inline bool uses_terminal(u32 request)
{
	return request == TIOCSTI || request == TIOCLINUX || request == TIOCVHANGUP;
}

/* Says who gets the signals of a socket, by a number in the caller's memory. */
static __always_inline bool names_owner(u32 request)
{
	return request == FIOSETOWN || request == SIOCSPGRP;
}

/* Opens another file than the descriptor's, as open_by_handle_at() does. */
static __always_inline bool opens_by_handle(u32 request)
{
	return request == XFS_IOC_OPEN_BY_HANDLE || request == XFS_IOC_OPEN_BY_HANDLE_32;
}

/* The operation on a name or a handle in the caller's memory, which nobody resolves here; 0: none. No one is 0. */
static __always_inline u32 changes_elsewhere(u32 request)
{
	switch (request) {
	case BTRFS_IOC_SNAP_CREATE:
	case BTRFS_IOC_SUBVOL_CREATE:
	case BTRFS_IOC_SNAP_CREATE_V2:
	case BTRFS_IOC_SUBVOL_CREATE_V2:
		return AGENTD_OP_CREATE;
	case BTRFS_IOC_SNAP_DESTROY:
	case BTRFS_IOC_SNAP_DESTROY_V2:
		return AGENTD_OP_DELETE;
	case XFS_IOC_ATTRMULTI_BY_HANDLE:
		return AGENTD_OP_SETATTR;
	}
	return 0;
}

#endif
