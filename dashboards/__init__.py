"""Makes the dashboards that agentd ships: `python -m dashboards` writes agentd/monitoring/dashboards/*.json.

Grafana's own library (grafana-foundation-sdk) builds them, so that a panel's options are checked by types here and not
by a blank panel there. What agentd ships and exports is the JSON; nothing of this is installed.
"""
