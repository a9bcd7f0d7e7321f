"""Picking in a running stream: the pipeline, the model that serves and its replacement, and what looks at the picks.

- ``Pipeline`` reads, picks and writes, in threads with bounded queues between them.
- ``Serving`` is the model that serves; it changes between two micrographs.
- ``Swapper`` sees ``CURRENT`` change, tries the new model and offers it.
- ``Canary`` compares a model, in shadow, with the serving one; ``Probation`` watches it once it serves.
- ``Announcer`` commits each change to the ledger and tells subscribers.
- ``DriftWatch`` and ``Doubts`` say when the picks change, or speak against the settings.
"""
