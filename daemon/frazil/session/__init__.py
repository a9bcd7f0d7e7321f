"""A session: one watched directory, from the files that land in it to the documents that leave.

- ``intake``: which files are complete, and new.
- ``pick``: read, picked and recorded; and the model that does it, while it is replaced.
- ``retune``: picks made again within other limits.
- ``outbox``: numbered, committed durably, then delivered as files and as messages.
"""
