# shellcheck shell=sh
# After the package's files have gone: what agentd itself has made. A cgroup2 that it mounted, because the host had none, is
# unmounted and never descended into: what is in it is the kernel's.
sweep() { # sweep [FOLDER...]: these as well
    rmdir /sys/fs/bpf/agentd /sys/fs/bpf/agentd-run 2>/dev/null || true
    umount /run/agentd/cgroup2 2>/dev/null || true
    rm -rf --one-file-system /run/agentd /usr/lib/agentd "$@"
}
