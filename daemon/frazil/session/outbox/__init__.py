"""The outbox: results are numbered, committed durably, and only then delivered; what is delivered is what was committed.

- ``outbox`` delivers, in the order of the sequence: the pick file first, then the message.
- ``ledger`` keeps every result, in one SQLite file.
- ``stream`` sends and replays documents over ZeroMQ, from a process of its own.
"""
