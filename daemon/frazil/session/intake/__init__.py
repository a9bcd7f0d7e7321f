"""Intake: events are hints, scans are the truth; a file goes on once it is complete by its own header, and new.

``Watcher`` names candidates, without opening a file. ``Intake`` proves them complete and hands them on as ``Arrival``.
"""
