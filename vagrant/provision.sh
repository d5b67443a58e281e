#!/usr/bin/env bash
# Makes a fresh machine one with agentd: installs the package from DIR/dist (or DIR itself), a demo agent, and starts both.
# Debian, Ubuntu and Fedora. As root: provision.sh DIR [--no-network]; the option leaves out what has to be downloaded,
# and takes what the package depends on, and Prometheus if it is to be there, from DIR/packages.
set -euo pipefail

dir=$1
network=1
[[ ${2:-} != --no-network ]] || network=0
[[ -d $dir/dist ]] && dist=$dir/dist || dist=$dir
demo=$dir/vagrant/demo
[[ -d $demo ]] || demo=$dir/demo

newest() { # newest PATTERN: the package to install
    local file
    file=$(find "$dist" -maxdepth 1 -name "$1" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-)
    if [[ -z $file ]]; then
        echo "provision: no $1 in $dist; make one first: ./dev package" >&2
        return 1
    fi
    echo "$file"
}

install_package() {
    local file
    if command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        file=$(newest 'agentd_*.deb')
        ((network == 0)) || apt-get -q update
        local more=()
        ((network == 1)) || mapfile -t more < <(find "$dir/packages" -name '*.deb')
        apt-get -q -y --no-install-recommends --allow-downgrades install "$file" "${more[@]}"
    else
        file=$(newest 'agentd-*.rpm')
        dnf -y install "$file"
    fi
}

install_demo() {
    install -D -m 0755 "$demo/demo" /usr/local/lib/agents/demo
    install -D -m 0644 "$demo/20-demo.yaml" /etc/agentd/policies/20-demo.yaml
    mkdir -p /srv/demo /srv/private
    echo "Buy milk." >/srv/demo/notes.txt
    echo "Sell everything." >/srv/private/plan.txt
}

# Prometheus with agentd's rules; Grafana's dashboards and data source, where a Grafana is or comes to be. (Debian has none;
# with Grafana's own repository on the machine it is installed too.)
install_watching() {
    agentd dashboards export /etc/agentd/monitoring --force >/dev/null
    if ((network == 1)) && command -v apt-get >/dev/null; then
        apt-get -q -y --no-install-recommends install prometheus
        ! apt-cache show grafana >/dev/null 2>&1 || apt-get -q -y install grafana
    fi
    if [[ -d /etc/prometheus ]]; then
        cp /etc/agentd/monitoring/agentd-*.yml /etc/prometheus/
        cp /etc/agentd/monitoring/prometheus.yml /etc/prometheus/prometheus.yml
        systemctl restart prometheus
    fi
    if [[ -d /etc/grafana ]]; then
        install -D -m 0644 -t /var/lib/grafana/dashboards/agentd /etc/agentd/monitoring/dashboards/*.json
        cp /etc/agentd/monitoring/grafana/dashboards.yml /etc/grafana/provisioning/dashboards/agentd.yml
        cp /etc/agentd/monitoring/grafana/datasource.yml /etc/grafana/provisioning/datasources/agentd.yml
        systemctl enable grafana-server
        systemctl restart grafana-server # which reads these only when it starts
    fi
}

install_package
install_demo
systemctl enable --now agentd
agentd reload # where it ran already, without the demo agent's policy
systemctl enable --now agentd@demo
install_watching
agentd status
