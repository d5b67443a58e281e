# shellcheck shell=sh
# Before the package goes: agents that only it starts are stopped, and the service; what is pinned in the kernel must not stay
# in force with nothing there that could end it.
stop_units() {
    [ -d /run/systemd/system ] || return 0
    systemctl stop 'agentd@*.service' || true
    systemctl --no-reload disable --now agentd.service || true
    # It stands in no unit's [Install]; left listening, it would start what isn't there any more.
    systemctl stop agentd-canary.socket 'agentd-canary@*.service' || true
}
end_enforcement() {
    if /usr/bin/agentd release --yes; then return 0; fi
    # Files that can't be read say where the pins are only if they say it themselves; else they are in the usual place.
    if ! grep -qrs '^ *bpffs_dir' /etc/agentd; then
        if /usr/bin/agentd release --yes --config /dev/null; then return 0; fi
        [ -e /sys/fs/bpf/agentd/maps ] || return 0
    fi
    cat >&2 <<'TEXT'
agentd: enforcement could not be ended (above), so the package stays. Mend that and remove it again, or boot the host: without
the service nothing is in force then.
TEXT
    return 1
}
# Each `agentd run --policy` carries its own engine, which no release takes from it while it lives.
tell_runs() {
    for run in /sys/fs/bpf/agentd-run/*; do
        [ -d "$run" ] || continue
        run=${run##*/}
        echo "agentd: agentd run (pid ${run%-*}) goes on: its command is held until it ends, and nobody can answer for it" >&2
    done
}
