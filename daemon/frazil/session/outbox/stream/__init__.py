"""The stream: what the ledger holds goes to whoever listens, live and once more.

- ``Stream`` is what the daemon has of it: a process that owns the two sockets, and another one when that has ended.
- ``Channel`` is what a session has of it.
- ``Publisher`` sends documents and heartbeats to all subscribers.
- ``Replayer`` answers "from sequence number N" out of the ledger.
- ``Access`` is the daemon's key and the list of clients.
"""

from frazil.session.outbox.stream.access import Access
from frazil.session.outbox.stream.stream import Channel, Stream

__all__ = ["Access", "Channel", "Stream"]
