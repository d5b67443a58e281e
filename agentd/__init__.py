"""Holds AI agents on a Linux host to their policy, in the kernel, without changing the agent."""

__version__ = "0.1.0"
