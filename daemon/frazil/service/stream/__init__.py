"""The stream: what the ledger holds goes to whoever listens, live and once more.

- ``Stream`` owns the two sockets, a thread for each, and who may connect.
- ``Publisher`` sends documents and heartbeats to all subscribers.
- ``Replayer`` answers "from sequence number N" out of the ledger.
- ``Access`` is the daemon's key and the list of clients.
"""

from frazil.service.stream.access import Access
from frazil.service.stream.stream import Stream

__all__ = ["Access", "Stream"]
