"""How well a checkpoint answers what a person knows the answers to: `vision-server evaluate`, and its comparisons.

Not part of the server: the daemon imports none of it.
"""
