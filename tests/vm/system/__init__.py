"""Whole systems in a virtual machine: stock Debian with systemd as PID 1, and agentd's package. See __main__.py."""
