"""Putting the parts together: the service, and the engine that `agentd run` carries. Only the command line imports
it.
"""
