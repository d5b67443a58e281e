#!/usr/bin/env bash
# Copies the tree into the machine (a virtual environment can't move with a synced folder) and plays the demo. As root.
set -euo pipefail

home=$(getent passwd vagrant | cut -d: -f6)
rm -rf "$home/agentd"
cp -a /src "$home/agentd"
chown -R vagrant: "$home/agentd"
cd "$home/agentd"
./dev demo
