// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The whole of the kernel side, as one object. Each family of hooks is a file of its own and could be compiled alone, but
 * for the maps: Debian 12's libbpf (1.1) links extern maps to wrong offsets, so they share one translation unit.
 */
#include "maps.bpf.c"

#include "path.bpf.c"
#include "namei.bpf.c"
#include "pages.bpf.c"
#include "lookup.bpf.c"
#include "hosts.bpf.c"

#include "task.bpf.c"
#include "held.bpf.c"
#include "match.bpf.c"
#include "exec.bpf.c"
#include "message.bpf.c"
#include "dns.bpf.c"
#include "net.bpf.c"
#include "file.bpf.c"
#include "names.bpf.c"
#include "words.bpf.c"
#include "socket.bpf.c"
#include "trace.bpf.c"
#include "dump.bpf.c"
#include "number.bpf.c"

#include "lsm_file.bpf.c"
#include "foreign.bpf.c"
#include "lsm_exec.bpf.c"
#include "lsm_socket.bpf.c"
#include "notes.bpf.c"
#include "lsm_words.bpf.c"
#include "lsm_others.bpf.c"
#include "mounts.bpf.c"
#include "lsm_attributes.bpf.c"
#include "lsm_privileges.bpf.c"
#include "lsm_memory.bpf.c"

#include "shared.bpf.c"
