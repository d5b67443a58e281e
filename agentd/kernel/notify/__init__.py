"""The seccomp point where the kernel has no LSM hooks for us: calls that change files or mounts wait in the kernel
until the supervisor has judged them and, for most, carried them out in the caller's place.

table      which calls, and when
device     the descriptor on which they arrive
caller     who calls: memory, descriptors, places, credentials
identity   a thread that acts with the caller's credentials
lookup     names to objects, as the caller's kernel would find them
request    one call, as its handler sees it
opens, names, attributes    what each call wants, and how it is done
calls      which handler is whose
pool       the threads that wait for them
keeper     who answers when agentd is gone

Nothing here decides: whether a call may go on is asked of whoever made the pool (agentd/engine/supervision.py).
"""
