/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What ioctl(2) changes, or reads elsewhere, through a descriptor that was opened to read, and the one that opens a file: by their
 * requests. Of btrfs' requests only those that are known to do nothing beyond the descriptor's own file are let through.
 * Sources: linux/fs.h, linux/btrfs.h, fs/ext4/ext4.h, linux/fscrypt.h, linux/fsverity.h, linux/msdos_fs.h; fs/xfs/libxfs/xfs_fs.h, whose 32-bit forms have
 * requests of their own. The seccomp filter of `agentd run` has the same list (agentd/kernel/seccomp.py).
 */
#ifndef AGENTD_IOCTLS_BPF_H
#define AGENTD_IOCTLS_BPF_H

#include "kernel.bpf.h"

#define FS_IOC_SETFLAGS 0x40086602
#define FS_IOC32_SETFLAGS 0x40046602
#define FS_IOC_FSSETXATTR 0x401c5820
#define FS_IOC_ENABLE_VERITY 0x40806685
#define FS_IOC_SETVERSION 0x40087602
#define FS_IOC32_SETVERSION 0x40047602
#define EXT4_IOC_SETVERSION 0x40086604
#define EXT4_IOC32_SETVERSION 0x40046604
#define FS_IOC_SET_ENCRYPTION_POLICY 0x800c6613
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
#define BTRFS_IOC_TREE_SEARCH 0xd0009411
#define BTRFS_IOC_TREE_SEARCH_V2 0xc0709411
#define BTRFS_IOC_SEND 0x40489426
#define BTRFS_IOC_SEND_32 0x40449426

#define REQUEST_TYPE(request) ((request) >> 8 & 0xff)
#define REQUEST_NUMBER(request) ((request) & 0xff)
#define ONE_OF(number) (1ull << ((number) & 63))
#define BTRFS_TYPE 0x94 /* FICLONE and its kin, too */

/* Numbers up to 63 of btrfs. Names and contents of any file, by trees, numbers and places on the disk. */
#define BTRFS_READS \
	(ONE_OF(17) | ONE_OF(18) | ONE_OF(35) | ONE_OF(36) | ONE_OF(38) | ONE_OF(59) | ONE_OF(61) | ONE_OF(62))
/* A subvolume's flags, and where it was received from. */
#define BTRFS_ATTRIBUTES (ONE_OF(26) | ONE_OF(37))
/*
 * Its own file moved together, cloned, compared; waiting; facts about devices, space and the file system; its own subvolume's
 * flags (24 and 57 are also requests that change, of other directions and sizes).
 */
#define BTRFS_HARMLESS                                                                                           \
	(ONE_OF(2) | ONE_OF(8) | ONE_OF(9) | ONE_OF(13) | ONE_OF(16) | ONE_OF(20) | ONE_OF(22) | ONE_OF(24) |    \
	 ONE_OF(25) | ONE_OF(29) | ONE_OF(30) | ONE_OF(31) | ONE_OF(34) | ONE_OF(39) | ONE_OF(45) | ONE_OF(46) | \
	 ONE_OF(49) | ONE_OF(52) | ONE_OF(54) | ONE_OF(60))
#define BTRFS_ENCODED 64 /* of its own file, judged as reading and writing it */
#define BTRFS_SUBVOL_SYNC_WAIT 65
#define BTRFS_FEATURES 57
#define READS_ONLY 0x80000000u

static __always_inline bool btrfs_is(u32 request, u64 numbers)
{
	return REQUEST_TYPE(request) == BTRFS_TYPE && REQUEST_NUMBER(request) < 64 &&
	       numbers >> (REQUEST_NUMBER(request) & 63) & 1;
}

/* Attributes of the descriptor's own file. */
static __always_inline bool sets_attributes(u32 request)
{
	switch (request) {
	case FS_IOC_SETFLAGS:
	case FS_IOC32_SETFLAGS:
	case FS_IOC_FSSETXATTR:
	case FS_IOC_ENABLE_VERITY:
	case FS_IOC_SETVERSION:
	case FS_IOC32_SETVERSION:
	case EXT4_IOC_SETVERSION:
	case EXT4_IOC32_SETVERSION:
	case FS_IOC_SET_ENCRYPTION_POLICY:
	case FAT_IOCTL_SET_ATTRIBUTES:
		return true;
	}
	return btrfs_is(request, BTRFS_ATTRIBUTES);
}

#define FIFREEZE 0xc0045877
#define FITHAW 0xc0045878
#define FS_IOC_SHUTDOWN 0x8004587d
#define TIOCSTI 0x5412
#define TIOCLINUX 0x541c
#define TIOCVHANGUP 0x5437
#define TIOCCONS 0x541d
#define TIOCSCTTY 0x540e
#define FIOSETOWN 0x8901
#define SIOCSPGRP 0x8902

#define EXT4_TYPE 'f'
#define EXT4_SET_UUID 44 /* as a request that writes */
/* GROUP_EXTEND, GROUP_ADD, RESIZE_FS; keys of everybody's removed; parameters of the superblock */
#define EXT4_ALL (ONE_OF(7) | ONE_OF(8) | ONE_OF(16) | ONE_OF(25) | ONE_OF(46))
#define XFS_TYPE 'X'
#define XFS_BASE 64
/* FSGROWFSDATA, LOG, RT; SET_RESBLKS; ERROR_INJECTION */
#define XFS_ALL (ONE_OF(110) | ONE_OF(111) | ONE_OF(112) | ONE_OF(114) | ONE_OF(116))

/* Stops or changes the descriptor's whole file system. */
static __always_inline bool changes_all(u32 request)
{
	u32 number = REQUEST_NUMBER(request);

	if (request == FIFREEZE || request == FITHAW || request == FS_IOC_SHUTDOWN)
		return true;
	switch (REQUEST_TYPE(request)) {
	case EXT4_TYPE:
		if (number == EXT4_SET_UUID)
			return !(request & READS_ONLY);
		return number < 64 && EXT4_ALL >> (number & 63) & 1;
	case XFS_TYPE:
		return number >= XFS_BASE && number < XFS_BASE + 64 && XFS_ALL >> (number & 63) & 1;
	case BTRFS_TYPE:
		if (number == BTRFS_FEATURES)
			return !(request & READS_ONLY);
		return number != BTRFS_ENCODED && number != BTRFS_SUBVOL_SYNC_WAIT &&
		       !btrfs_is(request, BTRFS_HARMLESS | BTRFS_READS | BTRFS_ATTRIBUTES);
	}
	return false;
}

/*
 * Types on a terminal, for whoever reads there (TIOCLINUX can paste), or takes it from all who have it, or (TIOCSCTTY with a 1)
 * from another session, or what is written to the console. argument: as the kernel takes it for TIOCSCTTY, the lower half of
 * the register.
 */
static __always_inline bool uses_terminal(u32 request, u32 argument)
{
	switch (request) {
	case TIOCSTI:
	case TIOCLINUX:
	case TIOCVHANGUP:
	case TIOCCONS:
		return true;
	case TIOCSCTTY:
		return argument == 1;
	}
	return false;
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

/* The operation on a name, a number or a handle in the caller's memory, which nobody resolves here; 0: none. No one is 0. */
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
	return btrfs_is(request, BTRFS_READS) ? AGENTD_OP_READ : 0;
}

#endif
