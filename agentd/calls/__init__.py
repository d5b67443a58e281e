"""Library calls as tools:

the fetchers, compiled by bcc when a policy names a function, and where libraries are found.
"""
