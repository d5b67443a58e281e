# shellcheck shell=sh
# An upgrade has put new files in place of those that the service began with. It is restarted if the new version takes the
# host's configuration and policy. If it doesn't, the old daemon goes on: it answers, records, and holds agents to what it has
# read, where the new one would not start.
restart_service() {
    systemctl -q is-active agentd.service || return 0
    if ! /usr/bin/agentd daemon --check >/dev/null; then
        cat >&2 <<'TEXT'
agentd: this version doesn't take the host's configuration or policy (above), so the service was not restarted: the version
before it goes on with what it has read. Mend that, then: systemctl restart agentd
TEXT
        return 0
    fi
    systemctl try-restart agentd.service || cat >&2 <<'TEXT'
agentd: the new version did not start: journalctl -u agentd says why. Enforcement goes on by the programs in the kernel, but
nobody answers what is held, and nothing is recorded.
TEXT
}
