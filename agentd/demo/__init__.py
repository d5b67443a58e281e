"""The 60-second story: an ordinary agent on this host, and what becomes of what it tries.

`agent.py` and `policy.yaml` are the two files a user would write. `stage.py` makes a place to play in, `servers.py` the
servers the agent talks to, `story.py` plays it through `agentd run` and its socket, like any user, and judges each step
by what really happened.
"""
