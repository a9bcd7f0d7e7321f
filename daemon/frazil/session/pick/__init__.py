"""Picking in a running stream: the pipeline, the serving model and its replacement, and checks of the picks.

- ``Pipeline`` reads, picks and writes, in threads with bounded queues between them.
- ``Serving`` holds the serving model, which changes between two micrographs.
- ``Swapper`` watches ``CURRENT``, checks the new model and offers it.
- ``Canary`` compares a model, in shadow, with the serving one. ``Probation`` watches it once it serves.
- ``Announcer`` commits each change of models as a document.
- ``DriftWatch`` and ``Doubts`` warn when the picks change, or speak against the settings.
"""
