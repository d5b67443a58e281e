# shellcheck shell=sh
# The pinned programs and maps of the version that is installed outlive its daemon, and the next one takes them over. One
# whose maps are laid out otherwise can't: that is said here, before anything has changed, and nothing is unpacked then.
# A version that doesn't say its layout is let through; the daemon itself looks at the maps again.
same_layout() { # same_layout ROOT
    new=@LAYOUT@
    [ -e "$1/sys/fs/bpf/agentd/maps/control" ] || return 0
    old=$(sed -n 's/^ABI_VERSION.*= *\([0-9]*\)$/\1/p' "$1/usr/lib/agentd/agentd/kernel/abi.py" 2>/dev/null) || return 0
    [ -n "$old" ] && [ "$old" != "$new" ] || return 0
    cat >&2 <<TEXT
agentd: this version can't take over what is in force: its maps have layout $new, those in the kernel $old; nothing was changed.
End the agents of this host, then:
  systemctl stop agentd && agentd release --yes     ends enforcement, by the old version
  (install this one again)
  systemctl start agentd
TEXT
    return 1
}
