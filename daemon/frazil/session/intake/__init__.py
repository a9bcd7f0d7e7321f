"""Intake: finds new micrographs. Events are hints, scans are the truth.

``Watcher`` names candidates and opens no file. ``Intake`` checks that a candidate is complete, by its own header, and
new; then it hands it on as an ``Arrival``.
"""
