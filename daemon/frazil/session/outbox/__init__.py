"""The outbox: numbers results, commits them durably, and only then delivers them, as they were committed.

- ``outbox`` delivers, in the order of the sequence: the pick file first, then the message.
- ``ledger`` keeps every result, in one SQLite file.
- ``stream`` sends and replays documents over ZeroMQ, from a process of its own.
"""
