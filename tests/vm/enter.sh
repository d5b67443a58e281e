#!/bin/sh
# Runs in the booted kernel, as root, started by virtme-ng's init: sh enter.sh TREE
#
# The root that virtme-ng mounted is 9p without a cache and with overlays over most of it: every import of a Python
# module asks the host for each file again. This takes a second 9p mount of the same root as the root, cached (the
# host's files don't change meanwhile) and read-only; working folders are tmpfs. The command's output, its exit status
# and what this kernel is go into the folder shared with the host.
SHARED=/run/agentd-vm
TREE=$1
exec </dev/null >"$SHARED/out" 2>&1

uname -r >"$SHARED/release"
cat /sys/kernel/security/lsm >"$SHARED/lsm"

fail() {
    echo "enter.sh: $*"
    echo 125 >"$SHARED/status"
    poweroff -f
    exit 125
}

mkdir /run/root /run/tree /run/kernel
mount -n -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose agentd-root /run/root ||
    fail "no second mount of the host's root"
# /mnt is only a place for the old root to be, for a moment.
cd /run/root || fail "no root"
pivot_root . mnt || fail "pivot_root"
cd / || fail "no new root"
for folder in proc sys dev run; do
    mount -n --move /mnt/$folder /$folder || fail "moving /$folder"
done
mount -n --bind "$TREE" /run/tree || fail "no tree at $TREE"
modules=$(readlink -f "/mnt/lib/modules/$(uname -r)")
mount -n --bind "${modules%/lib/modules/*}" /run/kernel || fail "no modules at $modules"
for folder in /tmp /var /home /srv; do
    [ ! -d $folder ] || mount -n -t tmpfs tmpfs $folder || fail "tmpfs on $folder"
done
mkdir -p "$TREE" /var/tmp /var/log /var/lib /var/cache /var/spool
ln -s /run /var/run
mount -n --move /run/tree "$TREE" || fail "moving the tree"
umount -n -l /mnt
# Modules that the kernel asks for (families of sockets, their diagnosis) come from its package.
printf '#!/bin/sh\nexec /sbin/modprobe -d /run/kernel "$@"\n' >/run/modprobe && chmod 755 /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
umount -n /sys/kernel/debug 2>/dev/null # nothing of agentd may need it
mount -n -t bpf bpf /sys/fs/bpf
# From here on the console has what says where a task is blocked, too; the boot has long been silent then.
echo 7 >/proc/sys/kernel/printk

export HOME=/tmp/home LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export AGENTD_VM_REPORT="$SHARED/report.jsonl"
mkdir -p "$HOME"
cd "$TREE" || fail "no folder to work in"
sh "$SHARED/command"
echo $? >"$SHARED/status"
sync
