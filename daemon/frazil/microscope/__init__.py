"""A microscope: the sessions of a daemon, which are found below a root, opened and closed.

- ``Sessions``: which are open, and why the others are not.
- ``Registry``: what the operator wishes of each.
- ``find_sessions``: the directories below the root that are sessions.
"""
