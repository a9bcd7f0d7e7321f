"""A microscope: the sessions of a daemon, which are found below a root, opened and closed.

- ``Sessions`` opens and closes them.
- ``Judge``: which are to be open, with which settings, and why the others are not.
- ``Registry``: what the operator wishes of each.
- ``find_sessions``: the directories below the root that are sessions.
"""
