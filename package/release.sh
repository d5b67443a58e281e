# shellcheck shell=sh
# Before the package goes: what is pinned in the kernel must not stay in force with nothing there that could end it.
end_enforcement() {
    if /usr/bin/agentd release --yes; then return 0; fi
    # Files that can't be read say where the pins are only if they say it themselves; else they are in the usual place.
    if ! grep -qrs '^ *bpffs_dir' /etc/agentd; then
        if /usr/bin/agentd release --yes --config /dev/null; then return 0; fi
    fi
    [ -e /sys/fs/bpf/agentd/maps ] || grep -qrs '^ *bpffs_dir' /etc/agentd || return 0
    cat >&2 <<'TEXT'
agentd: enforcement could not be ended (above), so the package stays. Mend that and remove it again, or boot the host: without
the service nothing is in force then.
TEXT
    return 1
}
