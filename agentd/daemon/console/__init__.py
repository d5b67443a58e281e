"""`agentd console`: a page for people, served by the daemon on loopback or a unix socket. Off unless agentd.yaml has
`console:`; only then is any of this imported (but for the settings).

access.py says who may, feed.py what is new, pages.py what is shown, app.py ties them to HTTP.
"""
